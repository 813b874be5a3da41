"""What Python users write: names, numbers and functions in the place of values, and our errors where it cannot work."""

import inspect
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import subcircuit as sc
from subcircuit.errors import NoGradientError, SettingsError, UnknownNameError
from subcircuit.graph.selection import selection_of
from subcircuit.search import METHODS, method_of
from subcircuit.search.problem import carried
from subcircuit.tasks import Answers, metric_of
from tests.problems import random_task
from tests.tiny_models import tiny


@pytest.fixture(scope="module")
def model() -> sc.Transformer:
    return tiny("llama_gqa")


@pytest.fixture(scope="module")
def task(model: sc.Transformer) -> sc.Task:
    return random_task(model, 1, [6, 5, 7, 6], answers_each=2)


def found_by(model: sc.Transformer, task: sc.Task, *args: Any, **how: Any) -> list[str]:
    return sc.discover(model, task, *args, scope="block", **how).circuit.names


@pytest.mark.slow
def test_a_method_by_name_is_the_method_with_its_defaults(model: sc.Transformer, task: sc.Task) -> None:
    for name, method in METHODS.items():
        assert method_of(name) == method_of(method) == method()
    assert found_by(model, task, "acdc") == found_by(model, task, sc.Acdc) == found_by(model, task, sc.Acdc())
    with pytest.raises(UnknownNameError, match="Did you mean 'acdc'"):
        sc.discover(model, task, "adcc")
    for wrong in (None, 3, sc.TopN(3, "signed"), dict):
        with pytest.raises(SettingsError, match=r"is not a method: give a name, such as 'acdc', or settings"):
            plain(method_of)(wrong)


def test_a_problem_says_for_itself_what_a_model_and_a_task_say_for_short(model: sc.Transformer, task: sc.Task) -> None:
    problem = sc.Problem.of(model, task, "logit_difference", "zero", "block")
    short = sc.discover(model, task, "eap", metric="logit_difference", ablation="zero", scope="block", selection=5)
    found = sc.discover(problem, "eap", selection=5)
    assert found.circuit.names == short.circuit.names and found.metric_circuit == short.metric_circuit
    assert found.circuit.record is not None and short.circuit.record is not None
    assert found.circuit.record.model_copy(update={"timings": {}}) == short.circuit.record.model_copy(update={"timings": {}})
    with pytest.raises(SettingsError, match="the problem already has a task, a metric, an ablation and a scope"):
        plain(sc.discover)(problem, "eap", metric="kl_divergence")


def test_a_graph_of_another_model_is_refused(model: sc.Transformer, task: sc.Task) -> None:
    with pytest.raises(sc.GraphError, match="the graph is of another model"):
        sc.Problem(model, sc.graph_of(tiny("gemma2"), "block"), task, sc.metric("logit_difference"))


@pytest.mark.slow
def test_a_number_takes_so_many_edges_of_largest_magnitude(model: sc.Transformer, task: sc.Task) -> None:
    few, same = (sc.discover(model, task, "exact", selection=s, scope="block") for s in (5, sc.TopN(5, "absolute")))
    assert few.circuit.names == same.circuit.names
    assert few.circuit.record is not None and few.circuit.record.method.parameters["n"] == 5
    for wrong in (0.1, True, "5", "1%"):
        with pytest.raises(SettingsError, match=r"it must be a number of edges such as 200, or TopN\(200, 'absolute'\)"):
            plain(selection_of)(wrong, sc.graph_of(model))
    with pytest.raises(SettingsError, match="and the graph has only"):
        sc.discover(model, task, "exact", selection=10_000)


def plain(function: Any) -> Any:
    """Without the checks of types that tests put around every function."""
    return inspect.unwrap(function)


def difference(logits: Tensor, answers: Answers) -> Tensor:
    assert int(answers.correct_mask.sum(-1).max()) == 1
    right = logits.gather(-1, answers.correct).squeeze(-1)
    wrong = torch.stack([row[ids[mask]].mean() for row, ids, mask in zip(logits, answers.wrong, answers.wrong_mask, strict=True)])
    return right - wrong


@pytest.mark.slow
@pytest.mark.parametrize("method", ["acdc", "exact", "eap", "eap-ig-inputs", "hisp", "atp-star", "relp", "hybrid"])
def test_a_function_is_the_metric_that_it_computes(model: sc.Transformer, task: sc.Task, method: str) -> None:
    own = sc.discover(model, task, method, metric=difference, scope="block")
    known = sc.discover(model, task, method, metric="logit_difference", scope="block")
    assert own.circuit.names == known.circuit.names
    assert own.circuit.scores is not None and known.circuit.scores is not None
    assert torch.allclose(own.circuit.scores, known.circuit.scores, atol=1e-5, equal_nan=True)
    assert own.metric_model == pytest.approx(known.metric_model, abs=1e-5)
    assert own.metric == "function difference"
    ours, theirs = (
        sc.evaluate_circuit(sc.Problem.of(model, task, m, scope="block"), own.circuit) for m in (difference, "logit_difference")
    )
    assert ours.means == pytest.approx(theirs.means, abs=1e-5)


def test_a_function_may_return_a_number_for_each_example(model: sc.Transformer, task: sc.Task) -> None:
    def by_example(logits: Tensor, answers: Answers) -> Tensor:
        return answers.per_example(difference(logits, answers))

    circuit = circuit_of(model)
    problems = [sc.Problem.of(model, task, m, circuit=circuit) for m in (by_example, difference)]
    means = [sc.evaluate_circuit(problem, circuit).means for problem in problems]
    assert means[0] == pytest.approx(means[1], abs=1e-6)


def circuit_of(model: sc.Transformer) -> sc.Circuit:
    return sc.Circuit.of_edges(sc.graph_of(model, "block"), ["embed->m0", "m0->logits"])


@pytest.mark.slow
def test_functions_without_a_gradient_serve_methods_without_one(model: sc.Transformer, task: sc.Task) -> None:
    def counts(logits: Tensor) -> Tensor:
        return (logits.argmax(-1) == logits.argmax(-1)).float()

    assert found_by(model, task, "acdc", metric=counts) == []
    for method in ("eap", "eap-ig-inputs", "ugs"):
        with pytest.raises(NoGradientError, match="function counts has no gradient, and this method needs one"):
            sc.discover(model, task, method, metric=counts, scope="block")


def one_word(logits: Tensor) -> Tensor:
    return logits[:, 3]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda logits: logits.mean(), r"returned a tensor of shape \(\): it must return a tensor of 8"),
        (lambda logits: logits, r"returned a tensor of shape \(8, 61\)"),
        (lambda logits: 3.0, "returned a float"),
        (lambda: 3.0, r"takes \(\): it must take the logits"),
        (lambda a, b, c: 3.0, r"takes \(a, b, c\)"),
    ],
)
def test_functions_that_are_no_metric_are_refused(model: sc.Transformer, task: sc.Task, function: Any, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        sc.discover(model, task, "acdc", metric=function, scope="block")


def test_metrics_and_ablations_that_are_none_are_refused() -> None:
    assert metric_of(one_word).direction == "higher"
    assert sc.own_metric(one_word, "lower", "w").name == "function w"
    with pytest.raises(SettingsError, match="metric is a int: give a name"):
        plain(metric_of)(3)
    with pytest.raises(SettingsError, match=r"ablation is a int: give a name, such as 'resample'"):
        plain(carried)(3)


@pytest.mark.slow
def test_a_task_is_judged_by_what_the_circuit_was_found_with(model: sc.Transformer, task: sc.Task) -> None:
    found = sc.discover(model, task, "exact", metric="logit_difference", ablation="zero", scope="block", selection=6).circuit
    expected = sc.Problem.of(model, task, "logit_difference", "zero", "block")
    recorded = sc.Problem.of(model, task, circuit=found)
    assert sc.evaluate_circuit(recorded, found).means == sc.evaluate_circuit(expected, found).means
    # of a circuit that was made by hand nothing is known: the task's own metric and resample ablation
    made = circuit_of(model)
    assert sc.evaluate_circuit(sc.Problem.of(model, task, circuit=made), made).metric.metric.name == task.metric
    own = sc.discover(model, task, "exact", metric=difference, scope="block").circuit
    with pytest.raises(SettingsError, match="is a Python function difference, and only its name is recorded"):
        sc.Problem.of(model, task, circuit=own)


def test_problems_hold_values(model: sc.Transformer, task: sc.Task) -> None:
    for name, wrong in (
        ("metric", "logit_difference"),
        ("ablation", "zero"),
        ("task", "ioi"),
        ("graph", "qkv"),
        ("model", "gpt2"),
    ):
        made = object.__new__(sc.Problem)
        given: dict[str, Any] = vars(sc.Problem.of(model, task, "match")) | {name: wrong}
        for each, value in given.items():
            object.__setattr__(made, each, value)
        with pytest.raises(SettingsError, match=f"{name} of a problem is a str: .* Use Problem.of"):
            made.__post_init__()


def test_all_that_public_functions_take_is_exported() -> None:
    functions = [getattr(sc, name) for name in sc.__all__ if inspect.isfunction(getattr(sc, name))]
    made_by_hand = [sc.Problem, sc.Contest, sc.HeldOut, sc.PromptPair, sc.Metric]
    missing = {
        (function.__name__, kind.__name__)
        for function in (*functions, *made_by_hand)
        for parameter in inspect.signature(function).parameters.values()
        for kind in classes(parameter.annotation)
        if kind.__module__.startswith("subcircuit.") and kind.__name__ not in sc.__all__
    }
    # task files and `own_metric` say the same more simply
    assert missing <= {("PromptPair", "Span"), ("Metric", "Needs")}


def classes(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for part in typing.get_args(annotation):
        yield from classes(part)
