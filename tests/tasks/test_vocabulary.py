"""A task belongs to a tokenizer: every public function that takes a model and a task refuses another model's."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, get_args

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import subcircuit as sc
from subcircuit.edit import Probe, Relearning
from subcircuit.errors import PromptError
from subcircuit.graph import Circuit, Graph, ModelRecord, Scope, TopN
from subcircuit.model import Transformer
from subcircuit.report.page import Ranking
from subcircuit.search import METHODS, Behaviour, EdgeScores, LearnOptimal, Refine
from subcircuit.search import discover as search
from subcircuit.tasks import Split, Task, check_same_vocabulary, check_vocabulary, induction, metric
from tests.planted_experts import by_routing
from tests.tiny_models import VOCAB, tiny

PACKAGES = ("search", "evaluate", "explain", "edit", "tasks", "report", "report.page", "truth")
# they compute nothing: the numbers, or the reference, were made with a model and a task that were checked
OF_WHAT_WAS_CHECKED = {"shortfall"}


def known(names: list[str], name: str = "ours", family: str = "llama") -> Transformer:
    """A tiny model whose tokenizer has these words, in this order."""
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(names)}, unk_token=names[0]))
    return replace(tiny(family), tokenizer=PreTrainedTokenizerFast(tokenizer_object=words), name=name)


WORDS = [f"w{i}" for i in range(VOCAB)]
OURS, OTHERS = known(WORDS), known(WORDS[::-1], "the other")
TASK = induction(OTHERS, examples=3, length=3)
BEHAVIOUR = Behaviour(TASK, metric("logit_difference"))
GRAPH = Graph.of(OURS.config, Scope("block"))
CIRCUIT = replace(Circuit.full(GRAPH), scores=torch.zeros(GRAPH.edges.shape))
PROBE = Probe(OURS, induction(OURS, examples=2, length=3), metric("logit_difference"), 1.0)
PLANTED = replace(sc.case("and-gate", BEHAVIOUR.ablation).model, tokenizer=OURS.tokenizer)
GIVEN: dict[str, Any] = {
    "model": OURS,
    "task": TASK,
    "behaviour": BEHAVIOUR,
    "other": TASK,
    "retain": (TASK,),
    "train": TASK,
    "judged": PROBE,
    "graph": GRAPH,
    "circuit": CIRCUIT,
    "circuits": [CIRCUIT],
    "subsets": [CIRCUIT],
    "metrics": (metric("logit_difference"),),
    "scope": Scope("block"),
    "source": "induction",
    "examples": 2,
    "component": "a1",
    "into": "head",
    "kept": torch.ones(OURS.config.n_layers, OURS.config.d_mlp, dtype=torch.bool),
    "selection": TopN(3, "absolute"),
    "ranking": Ranking.of(CIRCUIT),
    "counts": [2],
    "kept_only": True,
    "values": CIRCUIT.scores,
    "method": sc.Eap(),
    "settings": sc.Eap(),
    "learning_rate": 1e-3,
    "ablation": LearnOptimal(steps=1),
}
OWN: dict[str, dict[str, Any]] = {
    "acdc": {"config": sc.Acdc(0.1)},
    "zoom": {"config": sc.Acdc(0.1)},
    "look_inside": {"config": sc.Acdc(0.1)},
    "refine_circuit": {"config": Refine()},
    "with_numbers": {"split": Split(TASK, None, None)},
    "learn_optimal": {"config": LearnOptimal(steps=1)},
    "relearn": {"settings": Relearning(1, 1e-3)},
    "circuit_of": {"scores": EdgeScores(GRAPH, torch.zeros(GRAPH.edges.shape), "eap", 1.0, 1.0, {})},
    "curve": {"scores": torch.zeros(GRAPH.edges.shape)},
    "neuron_scores": {"config": sc.Eap()},
    "derive": {"model": PLANTED, "graph": Graph.of(PLANTED.config), "ablation": BEHAVIOUR.ablation},
    "recovery": {"edited": OURS, "whole": OURS, "spared": (), "removed": (), "settings": Relearning(1, 1e-3), "say": print},
    "routing": {"model": replace(by_routing(), tokenizer=OURS.tokenizer)},
}


def kinds_of(parameter: inspect.Parameter) -> set[type]:
    """The types that an argument may have."""
    return {kind for kind in (*get_args(parameter.annotation), parameter.annotation) if isinstance(kind, type)}


def takers() -> dict[str, Callable[..., Any]]:
    """The public functions that take a model and a task, or prompts with their metric."""
    found = {}
    for package in PACKAGES:
        module = import_module(f"subcircuit.{package}")
        for name in module.__all__:
            function = getattr(module, name)
            if not inspect.isfunction(function):
                continue
            kinds = set[type]().union(*(kinds_of(p) for p in inspect.signature(function).parameters.values()))
            if Transformer in kinds and kinds & {Task, Behaviour} and name not in OF_WHAT_WAS_CHECKED:
                found[name] = function
    return found


def given(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """What the function needs, with another model's task."""
    parameters = inspect.signature(function).parameters.values()
    needed = [p for p in parameters if p.default is p.empty or p.name == "ablation" or kinds_of(p) & {Task, Behaviour}]
    own = OWN.get(name, {})
    configs = {method.search.__name__: method.settings for method in METHODS.values() if method.name != "acdc"}
    return {p.name: own[p.name] if p.name in own else configs[name]() if p.name == "config" else GIVEN[p.name] for p in needed}


def test_there_are_such_functions() -> None:
    assert len(takers()) > 30
    assert takers().keys() >= {
        "discover",
        "evaluate_circuit",
        "judge",
        "explain_circuit",
        "remove",
        "competence",
        "acdc",
        "graph_of",
    }


@pytest.mark.parametrize("name", sorted(takers()))
def test_another_models_task_is_refused(name: str) -> None:
    function = takers()[name]
    with pytest.raises(PromptError, match=r"task induction was made for the other, and .* another tokenizer"):
        # a generator refuses when it is asked for its first
        next(function(**given(name, function)))


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
    own = induction(OURS, examples=2, length=3)
    with pytest.raises(PromptError, match="made for the other"):
        sc.evaluate_circuit(OURS, CIRCUIT, Behaviour(own, metric("logit_difference"), validation=TASK))


def test_a_circuit_and_a_task_of_models_with_other_tokenizers_are_refused() -> None:
    own: Task = induction(OURS, examples=2, length=3)
    found = search(OURS, own, sc.Eap(), metric="logit_difference", scope=Scope("block"), selection=TopN(6, "absolute")).circuit
    check_same_vocabulary(found, own)
    message = "the circuit was found in ours, and task induction was made for the other, which has another tokenizer"
    with pytest.raises(PromptError, match=message):
        check_same_vocabulary(found, TASK)
    for refused in (
        lambda: sc.evaluate_circuit(OTHERS, found, BEHAVIOUR),
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
