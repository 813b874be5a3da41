"""A task belongs to a tokenizer: whatever takes a model and a task, a problem above all, refuses another model's."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, get_args

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import subcircuit as sc
from subcircuit.edit import Probe, Relearning
from subcircuit.engine import Resample
from subcircuit.errors import PromptError
from subcircuit.evaluate import discover
from subcircuit.graph import Circuit, Graph, ModelRecord, Scope, TopN
from subcircuit.model import Transformer
from subcircuit.search import LearnOptimal, Problem
from subcircuit.tasks import Split, Task, check_same_vocabulary, check_vocabulary, induction, metric
from tests.tiny_models import VOCAB, tiny

PACKAGES = ("search", "evaluate", "explain", "edit", "tasks", "report", "report.page", "truth")
# they compute nothing: the numbers, or the reference, were made with a model and a task that were checked
OF_WHAT_WAS_CHECKED = {"shortfall"}
REFUSED = r"task induction was made for the other, and .* another tokenizer"


def known(names: list[str], name: str = "ours", family: str = "llama") -> Transformer:
    """A tiny model whose tokenizer has these words, in this order."""
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(names)}, unk_token=names[0]))
    return replace(tiny(family), tokenizer=PreTrainedTokenizerFast(tokenizer_object=words), name=name)


WORDS = [f"w{i}" for i in range(VOCAB)]
OURS, OTHERS = known(WORDS), known(WORDS[::-1], "the other")
TASK = induction(OTHERS, examples=3, length=3)
OWN_TASK = induction(OURS, examples=2, length=3)
GRAPH = Graph.of(OURS.config, Scope("block"))
PROBLEM = Problem(OURS, GRAPH, OWN_TASK, metric("logit_difference"))
PROBE = Probe(OURS, OWN_TASK, metric("logit_difference"), 1.0)
PLANTED = replace(sc.case("and-gate", Resample()).model, tokenizer=OURS.tokenizer)
GIVEN: dict[str, Any] = {
    "model": OURS,
    "task": TASK,
    "problem": PROBLEM,
    "split": Split(TASK, None, None),
    "other": TASK,
    "retain": (TASK,),
    "train": TASK,
    "judged": PROBE,
    "graph": GRAPH,
    "circuit": Circuit.full(GRAPH),
    "scope": Scope("block"),
    "source": "induction",
    "examples": 2,
    "method": sc.Eap(),
    "learning_rate": 1e-3,
    "ablation": LearnOptimal(steps=1),
}
OWN: dict[str, dict[str, Any]] = {
    "relearn": {"settings": Relearning(1, 1e-3)},
    "derive": {"model": PLANTED, "graph": Graph.of(PLANTED.config), "ablation": Resample()},
    "recovery": {"edited": OURS, "whole": OURS, "spared": (), "removed": (), "settings": Relearning(1, 1e-3), "say": print},
}


def kinds_of(parameter: inspect.Parameter) -> set[type]:
    """The types that an argument may have."""
    return {kind for kind in (*get_args(parameter.annotation), parameter.annotation) if isinstance(kind, type)}


def public() -> dict[str, Callable[..., Any]]:
    """The public functions of these packages."""
    modules = [import_module(f"subcircuit.{package}") for package in PACKAGES]
    named = [(name, getattr(module, name)) for module in modules for name in module.__all__]
    return {name: function for name, function in named if inspect.isfunction(function)}


def all_kinds_of(function: Callable[..., Any]) -> set[type]:
    """The types that any of its arguments may have."""
    return set[type]().union(*(kinds_of(p) for p in inspect.signature(function).parameters.values()))


def takers() -> dict[str, Callable[..., Any]]:
    """Those that take a model, or a problem, and a task beside it."""
    kinds = {name: all_kinds_of(function) for name, function in public().items() if name not in OF_WHAT_WAS_CHECKED}
    return {name: public()[name] for name, of in kinds.items() if of & {Transformer, Problem} and of & {Task, Split}}


def of_problems() -> dict[str, Callable[..., Any]]:
    """Those that take a problem."""
    return {name: function for name, function in public().items() if Problem in all_kinds_of(function)}


def given(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """What the function needs, with another model's task."""
    parameters = inspect.signature(function).parameters.values()
    needed = [p for p in parameters if p.default is p.empty or p.name == "ablation" or kinds_of(p) & {Task, Split}]
    own = OWN.get(name, {})
    return {p.name: own[p.name] if p.name in own else GIVEN[p.name] for p in needed}


def test_there_are_such_functions() -> None:
    assert len(takers() | of_problems()) > 30
    assert takers().keys() >= {"discover", "with_numbers", "explain_circuit", "remove", "competence", "graph_of"}
    assert of_problems().keys() >= {"evaluate_circuit", "judge", "learn_optimal"}


@pytest.mark.parametrize("name", sorted(takers()))
def test_another_models_task_is_refused(name: str) -> None:
    function = takers()[name]
    with pytest.raises(PromptError, match=REFUSED):
        function(**given(name, function))


@pytest.mark.parametrize("name", sorted(of_problems()))
def test_what_takes_a_problem_takes_no_other_model(name: str) -> None:
    # discover takes a model and a task for short, instead of a problem
    assert name == "discover" or Transformer not in all_kinds_of(of_problems()[name])


@pytest.mark.parametrize(
    "made",
    [
        lambda: Problem(OURS, GRAPH, TASK, metric("logit_difference")),
        lambda: Problem.of(OURS, TASK),
        lambda: replace(PROBLEM, task=TASK),
    ],
)
def test_a_problem_of_another_models_task_is_refused(made: Callable[[], Problem]) -> None:
    with pytest.raises(PromptError, match=REFUSED):
        made()


def test_a_probe_is_of_the_models_own_task() -> None:
    with pytest.raises(PromptError, match="made for the other"):
        Probe.of(OURS, TASK)


def test_the_same_words_in_another_object_are_the_same_tokenizer() -> None:
    check_vocabulary(known(WORDS), induction(OURS, examples=1))
    check_vocabulary(OURS, induction(known(WORDS, family="gpt2"), examples=1))


def test_models_without_tokenizers_are_told_apart_by_the_number_of_tokens() -> None:
    bare = tiny("llama")
    small = replace(bare, config=replace(bare.config, vocab=40), name="small")
    with pytest.raises(PromptError, match=r"made for small \(no tokenizer, 40 tokens\), and .* another vocabulary, of 61"):
        check_vocabulary(bare, induction(small, examples=1))
    with pytest.raises(PromptError, match="no tokenizer to compare with"):
        check_vocabulary(bare, TASK)
    unknown = replace(induction(bare, examples=1), vocabulary=None)
    check_vocabulary(bare, unknown)
    with pytest.raises(PromptError, match="made for another model, and small has another vocabulary, of 20 tokens"):
        check_vocabulary(replace(small, config=replace(small.config, vocab=20)), unknown)


def test_prompts_to_choose_by_are_looked_at_too() -> None:
    with pytest.raises(PromptError, match="made for the other"):
        Problem(OURS, GRAPH, OWN_TASK, metric("logit_difference"), validation=TASK)


def test_a_circuit_and_a_task_of_models_with_other_tokenizers_are_refused() -> None:
    selection = TopN(6, "absolute")
    found = discover(OURS, OWN_TASK, sc.Eap(), metric="logit_difference", scope=Scope("block"), selection=selection).circuit
    check_same_vocabulary(found, OWN_TASK)
    message = "the circuit was found in ours, and task induction was made for the other, which has another tokenizer"
    with pytest.raises(PromptError, match=message):
        check_same_vocabulary(found, TASK)
    for refused in (
        lambda: sc.evaluate_circuit(Problem(OTHERS, GRAPH, TASK, metric("logit_difference")), found),
        lambda: sc.explain_circuit(OTHERS, found, TASK),
        lambda: sc.remove(OTHERS, found, TASK),
        lambda: sc.keep(OTHERS, found, TASK),
    ):
        with pytest.raises(PromptError, match=message):
            refused()
    assert found.record is not None
    silent = found.record.model.model_copy(update={"tokenizer": None})
    assert isinstance(silent, ModelRecord)
    check_same_vocabulary(replace(found, record=found.record.model_copy(update={"model": silent})), TASK)
