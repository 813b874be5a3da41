"""Public functions work alike in whatever torch mode they are called, and refuse arguments of another kind."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import pytest
import torch

import subcircuit as sc
from subcircuit.entry import default_modes, entry
from subcircuit.errors import SettingsError
from subcircuit.graph import Circuit, Graph
from subcircuit.model import Transformer
from subcircuit.search import METHODS, Discovery, Problem, effects_by_example
from subcircuit.tasks import Task, graph_of, metric
from tests.problems import random_task
from tests.tiny_models import tiny

Mode = Callable[[], AbstractContextManager[Any]]


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def rounded_products() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


MODES: dict[str, Mode] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "dtype": default_dtype,
    "device": lambda: torch.device("meta"),
    "rounded": rounded_products,
}
MODEL = tiny("gpt2")
# settings that end soon
SHORT = {"subnetwork-probing": {"steps": 3}, "edge-pruning": {"steps": 3}, "ugs": {"steps": 3}}


def found_by(method: str, task: Task) -> Discovery:
    settings = METHODS[method](**SHORT.get(method, {}))
    return sc.discover(MODEL, task, settings, metric="logit_difference", scope=sc.Scope("block"))


@cache
def found_in_default_modes(method: str) -> Discovery:
    return found_by(method, random_task(MODEL, 1, [6, 5]))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_scores_are_the_same_in_any_mode(mode: str, method: str) -> None:
    expected = found_in_default_modes(method)
    task = random_task(MODEL, 1, [6, 5])
    with MODES[mode]():
        found = found_by(method, task)
    assert found.circuit.names == expected.circuit.names
    assert found.circuit.scores is not None and expected.circuit.scores is not None
    assert torch.equal(found.circuit.scores.nan_to_num(), expected.circuit.scores.nan_to_num())
    assert (found.metric_circuit, found.kl_circuit) == (expected.metric_circuit, expected.kl_circuit)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_everything_else_is_the_same_in_any_mode(mode: str) -> None:
    model = tiny("llama_gqa")
    task, graph = random_task(model, 1, [6, 5]), graph_of(model, sc.Scope("block"))
    problem = Problem(model, graph, random_task(model, 1, [6, 5]), metric("logit_difference"))
    circuit = Circuit.of_edges(graph, ["embed->a0", "a0->m1", "m1->logits"])

    def numbers() -> list[torch.Tensor | float | None]:
        judged = sc.judge(problem, circuit, random_circuits=1)
        learned = sc.learn_optimal(problem, sc.LearnOptimal(steps=2))
        return [
            model(task.clean),
            model.stream(task.clean),
            judged.completeness,
            judged.evaluation.faithfulness,
            sc.explain_circuit(model, circuit, task).components["m1"].effect,
            learned.constants,
            *effects_by_example(problem),
        ]

    expected = numbers()
    with MODES[mode]():
        found = numbers()
    for a, b in zip(expected, found, strict=True):
        same = (
            torch.equal(a, b) and not b.is_inference() if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
        )
        assert same


def test_a_model_and_a_task_made_in_inference_mode_can_be_searched() -> None:
    with torch.inference_mode():
        case = sc.case("induction", sc.Resample())
    sc.discover(case.model, case.task, sc.Eap(), metric="logit_difference")


def test_modes_are_given_back() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode(), default_dtype(), torch.device("meta"):
        with default_modes():
            assert not torch.is_autocast_enabled("cpu") and not torch.is_inference_mode_enabled()
            assert (torch.ones(1).dtype, torch.ones(1).device.type) == (torch.float32, "cpu")
        assert torch.is_autocast_enabled("cpu") and torch.is_inference_mode_enabled()
        assert (torch.ones(1).dtype, torch.ones(1).device.type) == (torch.float64, "meta")


def test_generators_work_in_the_default_modes_and_leave_their_callers_alone() -> None:
    @entry
    def products(n: int) -> Iterator[torch.Tensor]:
        for _ in range(n):
            yield torch.ones(2, 2) @ torch.ones(2, 2)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        for product in products(2):
            assert product.dtype == torch.float32
            assert torch.is_autocast_enabled("cpu")


PACKAGES = ("model", "tasks", "search", "evaluate", "explain", "edit", "report", "truth")
# they look at a model and compute nothing with it
LOOKING = {"check_same_model", "all_nodes", "new_directory", "check_weights"}
# what methods are made of: their searches are entries
INSIDE = {"scored", "timed", "search_at"}


def takes_a_model(function: Any) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.annotation in (Transformer, Problem) or p.name in ("model", "problem") for p in parameters)


def test_every_public_function_that_takes_a_model_is_an_entry() -> None:
    functions = {
        name: getattr(home, name)
        for home in (sc, *(importlib.import_module(f"subcircuit.{package}") for package in PACKAGES))
        for name in home.__all__
        if inspect.isfunction(getattr(home, name)) and takes_a_model(getattr(home, name))
    }
    assert len(functions) > 50
    assert [name for name, function in functions.items() if not is_entry(function) and name not in LOOKING | INSIDE] == []


def is_entry(function: Any) -> bool:
    while function is not None:
        if function.__code__ is entry(lambda: None).__code__:
            return True
        function = getattr(function, "__wrapped__", None)
    return False


anything: Any = sc  # functions whose arguments are not checked before they run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda m, t, c, r: anything.discover("gpt2", t, sc.Eap()),
            r"discover: model must be a Transformer or Problem, not a str.*load_model",
        ),
        (
            lambda m, t, c, r: anything.discover(m, "ioi", sc.Eap()),
            r"discover: task must be a Task or a Split, not a str.*load_task",
        ),
        (
            lambda m, t, c, r: anything.explain_circuit(m, r, t),
            r"circuit must be a Circuit, not a Discovery: pass its \.circuit",
        ),
        (lambda m, t, c, r: anything.explain_circuit(m, "runs/x", t), r"circuit must be a Circuit, not a str.*Circuit\.load"),
        (lambda m, t, c, r: anything.evaluate.direct_effects(m, c, t), r"graph must be a Graph, not a Circuit.*graph_of"),
        (lambda m, t, c, r: anything.curve(c, c.scores), r"curve: problem must be a Problem, not a Circuit.*Problem\.of"),
        (lambda m, t, c, r: anything.estimate(t, sc.Eap()), r"problem must be a Problem, not a Task.*Problem\.of"),
        (lambda m, t, c, r: anything.load_task("ioi", model=3), r"load_task: model must be a Transformer, not a int"),
    ],
)
def test_arguments_of_another_kind_are_refused(call: Callable[..., Any], words: str) -> None:
    model = tiny("gpt2")
    task = random_task(model, 1, [6, 5])
    found = sc.discover(model, task, sc.Eap(), metric="logit_difference", scope=sc.Scope("block"))
    with pytest.raises(SettingsError, match=words):
        call(model, task, found.circuit, found)


def test_graphs_are_checked_by_what_they_are() -> None:
    assert isinstance(graph_of(tiny("gpt2")), Graph)
    with pytest.raises(TypeError, match="missing"):
        sc.discover(tiny("gpt2"))  # pyright: ignore[reportCallIssue]
