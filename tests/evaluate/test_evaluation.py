"""A circuit's numbers are those of its evaluation on exactly the prompts of the split, and a record says which these were.

A judgement is its parts.
"""

import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch

import subcircuit as sc
from subcircuit.engine import Optimal, Resample, last_stream
from subcircuit.errors import SettingsError
from subcircuit.evaluate import (
    completeness,
    curve,
    discover,
    evaluate_circuit,
    faithfulness,
    judge,
    measure,
    numbers_of,
    random_connected_circuit,
)
from subcircuit.graph import Circuit, Graph, PartRecord, Record, Scope, TopN
from subcircuit.search import Acdc, Eap, EapIgInputs, Journal, LearnOptimal, OnProgress, Problem, Result, look_inside
from subcircuit.search.journal import FORGETFUL
from subcircuit.tasks import Split, induction, load_split, metric, split_again
from tests.problems import random_problem
from tests.tiny_models import tiny


class Kept:
    """A journal in memory."""

    leaving = False

    def __init__(self):
        self.units: dict[str, bytes] = {}

    def recall(self, key: str) -> bytes | None:
        return self.units.get(key)

    def record(self, key: str, result: bytes) -> None:
        assert key not in self.units
        self.units[key] = result


MODEL = tiny("llama")
SPLIT = load_split("induction", MODEL, examples=3, split="30/30/40")


def results(circuit: Circuit) -> dict:
    assert circuit.record is not None
    return circuit.record.results


@pytest.mark.slow
def test_search_prompts_are_searched_with_and_the_others_are_measured():
    found, plain = discover(MODEL, SPLIT, Acdc(0.01)), discover(MODEL, SPLIT.search, Acdc(0.01))
    assert found.circuit.names == plain.circuit.names
    for name, part in (("test", SPLIT.test), ("search", SPLIT.search)):
        assert part is not None
        evaluation = evaluate_circuit(Problem(MODEL, plain.circuit.graph, part, metric("kl_divergence")), plain.circuit)
        interval = evaluation.faithfulness_interval()
        assert interval is not None
        assert results(found.circuit)[name] == {
            "examples": len(part),
            "faithfulness": evaluation.faithfulness,
            "interval": [interval.low, interval.high],
            "kl": evaluation.means["kl"],
            "accuracy": evaluation.means["accuracy"],
            "top1": evaluation.means["match"],
            "why": None,
        }
    record = found.circuit.record
    assert record is not None and record.task.split is not None and SPLIT.validation is not None
    assert record.task.digest == record.task.split.search.digest == SPLIT.search.digest
    assert record.task.split.validation == PartRecord(examples=3, digest=SPLIT.validation.digest)
    again = split_again(record.task, "induction", MODEL)
    assert again is not None
    assert [part.digest for part in again.parts.values()] == [part.digest for part in SPLIT.parts.values()]


def test_a_record_of_before_there_were_splits_still_loads():
    record = discover(MODEL, SPLIT.search, EapIgInputs(steps=2)).circuit.record
    assert record is not None and record.task.split is None
    old = json.loads(record.model_dump_json())
    del old["task"]["split"]
    assert Record.model_validate(old) == record


@pytest.mark.slow
def test_a_task_alone_is_all_searched_with():
    assert "test" not in results(discover(MODEL, SPLIT.search, EapIgInputs(steps=2)).circuit)
    alone = discover(MODEL, Split(SPLIT.search, None, None), EapIgInputs(steps=2)).circuit
    assert results(alone)["test"] is None
    assert results(alone)["search"]["examples"] == 3


@pytest.mark.slow
def test_a_method_may_choose_by_validation_prompts():
    seen: list[Problem] = []

    class Watching(EapIgInputs):
        def search(self, problem: Problem, progress: OnProgress | None = None, journal: Journal = FORGETFUL) -> Result:
            seen.append(problem)
            return super().search(problem, progress, journal)

    discover(MODEL, SPLIT, Watching(steps=2))
    discover(MODEL, SPLIT.search, Watching(steps=2))
    assert SPLIT.validation is not None
    assert [p.task.digest for p in seen] == [SPLIT.search.digest] * 2
    assert [p.validation and p.validation.digest for p in seen] == [SPLIT.validation.digest, None]


def test_learned_constants_are_carried_on_the_other_prompts_too():
    found = sc.discover(MODEL, SPLIT, EapIgInputs(steps=2), ablation=LearnOptimal(steps=2)).circuit
    assert found.constants is not None and SPLIT.test is not None
    problem = Problem(MODEL, found.graph, SPLIT.test, metric("kl_divergence"), Optimal(found.constants))
    measured = evaluate_circuit(problem, found)
    assert results(found)["test"] == numbers_of(measured).model_dump(mode="json")


@pytest.mark.slow
def test_what_is_undefined_is_missing_and_says_why():
    # one prompt has no interval
    one = load_split("induction", MODEL, examples=1, split="100/0/0")
    found = discover(MODEL, one, EapIgInputs(steps=2)).circuit
    assert results(found)["search"]["interval"] is None
    # two prompts, of which the model makes nothing: the difference is within noise
    nothing = Split(SPLIT.search, None, load_split("induction", MODEL, examples=2, seed=7).search)
    numbers = results(discover(MODEL, nothing, EapIgInputs(steps=2), metric="logit_difference").circuit)["test"]
    assert (numbers["faithfulness"], numbers["interval"]) == (None, None)
    assert "faithfulness is undefined" in numbers["why"]
    assert numbers["kl"] > 0


@pytest.mark.slow
def test_prompts_that_a_graph_of_positions_has_no_place_for_have_no_numbers():
    shorter = induction(MODEL, examples=2, length=4)
    found = discover(MODEL, Split(SPLIT.search, None, shorter), EapIgInputs(steps=2), scope=sc.Scope(positions="each")).circuit
    assert "19 positions, and the prompts have 7" in results(found)["test"]["why"]
    assert results(found)["test"]["kl"] is None
    assert results(found)["search"]["kl"] > 0


@pytest.mark.slow
def test_units_of_test_and_search_prompts_are_kept_apart_and_taken_up_again():
    journal = Kept()
    first = discover(MODEL, SPLIT, EapIgInputs(steps=2), journal=journal)
    count = len(journal.units)
    second = discover(MODEL, SPLIT, EapIgInputs(steps=2), journal=journal)
    assert len(journal.units) == count
    assert results(first.circuit) == results(second.circuit)
    assert {key.partition("/")[0] for key in journal.units} >= {"test prompts", "search prompts"}


def test_measuring_tells_how_far_it_is_after_the_search():
    told: list[tuple[float, float | None]] = []
    discover(MODEL, SPLIT, EapIgInputs(steps=2), on_step=lambda step: told.append((step.done, step.total)))
    # model, circuit and empty circuit on every test and search prompt; the model and what is empty may be the circuit
    assert SPLIT.test is not None
    total = 3 * (len(SPLIT.test) + len(SPLIT.search))
    runs = [done for done, of in told if of == total]
    assert runs == sorted(runs) and runs[-1] == total


@pytest.mark.slow
def test_zooming_carries_the_split_on_where_the_prompts_are_those_of_the_search():
    found = discover(MODEL, SPLIT, Acdc(0.01), scope=sc.Scope("head")).circuit
    head = next(str(node) for node in found.nodes if str(node).startswith("a"))
    problem = Problem(MODEL, found.graph, SPLIT.search, metric("kl_divergence"), Resample())
    inside = look_inside(problem, found, head, "qkv", Acdc(0.01))
    assert inside.circuit.record is not None and found.record is not None
    assert inside.circuit.record.task == found.record.task
    assert SPLIT.validation is not None
    other = look_inside(replace(problem, task=SPLIT.validation), found, head, "qkv", Acdc(0.01))
    assert other.circuit.record is not None and other.circuit.record.task.split is None


def test_a_split_is_of_one_task():
    with pytest.raises(SettingsError, match="in common"):
        discover(MODEL, Split(SPLIT.search, None, SPLIT.search), EapIgInputs(steps=2))


def problems(seed: int = 3):
    """Two problems of one model; faithfulness by divergence is defined for any prompts."""
    model = tiny("llama_gqa", dtype=torch.float64)
    graph = Graph.of(model.config, Scope("head"))
    found_on = random_problem(model, graph, seed, [6, 5, 7], 1, "logit_difference", "resample")
    return found_on, random_problem(model, graph, seed + 1, [6, 5, 7, 6], 1, "kl_divergence", "resample")


@pytest.mark.slow
def test_a_judgement_is_its_parts():
    found_on, judged_on = problems()
    circuit = Eap().search(found_on).select(TopN(30, "signed")).prune()
    judged = judge(judged_on, circuit, random_circuits=3, seed=5)
    expected = evaluate_circuit(judged_on, circuit)
    assert judged.evaluation.means == pytest.approx(expected.means)
    assert judged.completeness == pytest.approx(completeness(judged_on, circuit))
    others = [random_connected_circuit(circuit.graph, circuit.n_edges, 5 + i) for i in range(3)]
    values = faithfulness(measure(judged_on, others)).tolist()
    assert judged.random == pytest.approx(values)
    assert judged.random_mean == pytest.approx(np.mean(values))
    assert min(values) <= judged.random_interval.low <= judged.random_interval.high <= max(values)
    assert circuit.scores is not None
    assert judged.curve == curve(judged_on, circuit.scores)
    with pytest.raises(SettingsError, match="random_circuits is 0"):
        judge(judged_on, circuit, random_circuits=0)


@pytest.mark.slow
def test_a_judgement_runs_the_model_and_the_empty_circuit_once(monkeypatch: pytest.MonkeyPatch):
    found_on, judged_on = problems()
    circuit = Eap().search(found_on).select(TopN(30, "signed")).prune()
    runs = list[torch.Tensor]()
    module = import_module("subcircuit.evaluate.measure")
    monkeypatch.setattr(module, "last_stream", lambda *given: runs.append(given[2]) or last_stream(*given))
    judge(judged_on, circuit, random_circuits=2, batch_size=2)
    batches = len(judged_on.task) // 2
    for end in (circuit.graph.edges, torch.zeros_like(circuit.graph.edges)):
        assert sum(torch.equal(mask, end) for mask in runs) == batches
    # the circuit, the model without it, two random circuits, and those of the curve
    assert len(runs) > (2 + 4) * batches


@pytest.mark.slow
def test_a_search_that_leaves_edges_untried_has_no_curve():
    found_on, judged_on = problems()
    circuit = Acdc(threshold=0.01).search(found_on).circuit
    assert judge(judged_on, circuit, random_circuits=1).curve is None
