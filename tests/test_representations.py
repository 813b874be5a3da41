"""What Python shows of a value fits on a screen, and tells metrics in their own sign."""

from textwrap import wrap
from typing import Any

import pytest
import torch

import subcircuit as sc
from subcircuit.evaluate import Contest, knock_out, recovery
from tests.edit.test_remove import trained
from tests.problems import random_task
from tests.tiny_models import tiny

# the values that they show are searched for
pytestmark = pytest.mark.slow

SCREEN = (80, 24)


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    model = tiny("llama_gqa")
    task = random_task(model, 1, [6, 5] * 16)
    problem = sc.Problem.of(model, task, "logit_difference")
    graph = problem.graph
    found = sc.discover(model, task, "eap", metric="logit_difference", selection=40)
    circuit = found.circuit
    divergence = sc.Problem.of(model, task, "kl_divergence")
    judged = sc.judge(divergence, circuit, random_circuits=3)
    contest = Contest(problem, divergence)
    learned = sc.learn_optimal(problem, sc.LearnOptimal(steps=1))
    return {
        "model": model,
        "weights": model.weights,
        "tokens": task.clean,
        "answers": task.answers,
        "task": task,
        "metric": problem.metric,
        "problem": problem,
        "ablation": learned,
        "graph": graph,
        "circuit": circuit,
        "comparison": circuit.compare(sc.Circuit.full(graph)),
        "scores": sc.Eap().search(problem),
        "neurons": sc.neuron_scores(problem, sc.Eap()),
        "discovery": found,
        "judgement": judged,
        "evaluation": sc.evaluate_circuit(problem, circuit),
        "readings": sc.measure(problem, [circuit] * 30),
        "curve": judged.curve,
        "knockout": knock_out(problem, circuit, [circuit])[0],
        "recovery": recovery(circuit, torch.rand(graph.edges.shape)),
        "roc": recovery(circuit, torch.rand(graph.edges.shape)).roc,
        "contest": contest,
        "contender": contest.run(sc.Eap()),
        "estimate": sc.estimate(problem, "eap"),
        "explanation": sc.explain_circuit(model, circuit, task),
        "summary": sc.Summary.of(circuit),
        "case": sc.case("induction", sc.Zero()),
        "validation": sc.validate(sc.case("induction", sc.Zero()), "exact"),
    }


NAMES = [
    "model",
    "weights",
    "tokens",
    "answers",
    "task",
    "metric",
    "problem",
    "ablation",
    "graph",
    "circuit",
    "comparison",
    "scores",
    "neurons",
    "discovery",
    "judgement",
    "evaluation",
    "readings",
    "curve",
    "knockout",
    "recovery",
    "roc",
    "contest",
    "contender",
    "estimate",
    "explanation",
    "summary",
    "case",
    "validation",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_value_fits_on_a_screen(values: dict[str, Any], name: str) -> None:
    for shown in (repr(values[name]), str(values[name])):
        lines = [part for line in shown.split("\n") for part in wrap(line, SCREEN[0]) or [""]]
        assert len(lines) <= SCREEN[1], shown
        assert "tensor(" not in shown and "0x" not in shown


def test_a_model_is_one_line(values: dict[str, Any]) -> None:
    shown = repr(values["model"])
    assert shown == "Transformer(tiny-llama_gqa: llama, 3 layers of 4 heads, width 32, 61 tokens, float32 on cpu)"


def test_the_logit_difference_keeps_its_sign(values: dict[str, Any]) -> None:
    model, found, evaluation = (values[name] for name in ("model", "discovery", "evaluation"))
    task = values["task"]
    logits = task.answers.rows(model(task.clean)).double()
    differences = [
        float(row[right[mask]].mean() - row[wrong[wrong_mask]].mean())
        for row, right, mask, wrong, wrong_mask in zip(
            logits, task.answers.correct, task.answers.correct_mask, task.answers.wrong, task.answers.wrong_mask, strict=True
        )
    ]
    expected = sum(differences) / len(differences)
    assert evaluation.means["metric_model"] == pytest.approx(expected, abs=1e-6)
    for shown in (found, evaluation, values["readings"]):
        assert f"model {expected:.4g}," in repr(shown)


def test_an_edit_fits_on_a_screen() -> None:
    model, circuit, task, _ = trained()
    for level in ("node", "edge"):
        removal = sc.remove(model, circuit, task, means=sc.Means(level))
        assert len(repr(removal)) < 300
        assert "Removal(" in repr(removal) and "left on the prompts of the search" in repr(removal)
