"""A circuit that captures nothing says so, and what to do: after a search, from the record on disk, and on the picture.

A model that computes NaN or infinity is told by the layer and the pair where it begins to.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import subcircuit as sc
from subcircuit.errors import NumericalError
from subcircuit.evaluate import Judgement, Readings, discover
from subcircuit.graph import Circuit, MethodRecord, Scope
from subcircuit.model.weights import MLPWeights
from subcircuit.report import Summary, draw_circuit
from subcircuit.search import METHODS, Acdc, Eap, Method, faithfulness_of, look_inside, meaning_of_scores, warnings_of
from subcircuit.search.warnings import first_unsound
from tests.graph.strategies import record
from tests.problems import random_task
from tests.tiny_models import tiny

GRAPH = sc.graph_of(tiny("gpt2"), "block")


def recorded(edges: list[str], parameters: dict[str, Any], **results: float) -> Circuit:
    """A circuit with a record that says this."""
    known = record()
    method = MethodRecord(name="eap" if "select" in parameters else "acdc", parameters=parameters)
    said = known.model_copy(update={"method": method, "results": {**known.results, **results}})
    return replace(Circuit.of_edges(GRAPH, edges), record=said)


PATH = ["embed->m0", "m0->logits"]
TOP = {"select": "top-n", "n": 2, "by": "absolute"}


def test_a_circuit_that_does_what_the_model_does_has_no_warning() -> None:
    assert warnings_of(recorded(PATH, TOP, edges_selected=3)) == ()
    assert warnings_of(recorded(PATH, {"threshold": 0.02})) == ()


def test_an_empty_circuit_captures_nothing() -> None:
    (pruned,) = warnings_of(recorded([], TOP, edges_selected=2, metric_circuit=4.5))
    assert pruned == (
        "the circuit is empty: 2 of 2 selected edges lie on no path from the embedding to the logits. Remedy: "
        "take more edges (--edges), or grow the circuit from the logits, which connects them (--greedy)."
    )
    (cut,) = warnings_of(recorded([], {"threshold": 3.0}, metric_circuit=4.5))
    assert cut == "the circuit is empty. Remedy: search with a lower threshold (--threshold)."


def test_a_circuit_that_fell_apart() -> None:
    (warning,) = warnings_of(recorded(PATH, TOP, edges_selected=5))
    assert warning.startswith(
        "most of the circuit was disconnected: 3 of 5 selected edges lie on no path from the embedding to the logits"
    )
    assert warnings_of(recorded(PATH, TOP, edges_selected=4)) == ()


@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(-100, 100))
def test_the_warning_of_a_collapse_is_that_of_faithfulness(circuit: float, model: float, empty: float) -> None:
    found = warnings_of(recorded(PATH, TOP, metric_circuit=circuit, metric_model=model, metric_corrupted=empty))
    f = faithfulness_of(circuit, model, empty)
    if f is None:
        assert abs(model - empty) < 1e-3
        assert len(found) == 1 and "values are the same" in found[0]
    else:
        assert f == pytest.approx((circuit - empty) / (model - empty))
        assert bool(found) == (f <= 1e-6)
        assert all(
            "does no better than the model with every edge cut" in warning and "take more edges" in warning for warning in found
        )


def test_a_zoom_that_loses_the_behaviour() -> None:
    ends = {"metric_model": 17.8, "metric_corrupted": 0.6}
    (warning,) = warnings_of(recorded(PATH, {"threshold": 0.1}, metric_before=17.6, metric_circuit=3.7, **ends))
    assert "lowered the faithfulness from 0.988 to 0.18: kl_divergence is 3.7, and was 17.6 before. Zoom with a lower" in warning
    assert warnings_of(recorded(PATH, {"threshold": 0.1}, metric_before=17.6, metric_circuit=17.2, **ends)) == ()


def test_searches_that_still_run_are_not_judged() -> None:
    begun = record().model_copy(update={"results": {}})
    assert warnings_of(replace(Circuit.empty(GRAPH), record=begun)) == ()
    assert warnings_of(Circuit.empty(GRAPH)) == ()


def test_a_search_says_it_everywhere(tmp_path: Path) -> None:
    model = tiny("gpt2")
    # the largest of 262 edges is on no path
    found = sc.discover(model, random_task(model, 1, [6, 5]), "random", metric="logit_difference", selection=1)
    assert found.circuit.n_edges == 0
    (warning,) = found.warnings
    assert "1 of 1 selected edges lie on no path" in warning and f"warning: {warning}" in repr(found)
    assert found.faithfulness == pytest.approx(0, abs=1e-6)
    found.circuit.save(tmp_path)
    summary = Summary.of(Circuit.load(tmp_path))
    assert summary.warnings == (warning,)
    assert summary.to_json()["warnings"] == (warning,)
    assert ("warning", warning) in summary.rows
    drawn = [text for text in draw_circuit(found.circuit).axes[0].texts if text.get_color() == "#b00020"]
    assert " ".join(text.get_text() for text in drawn) == f"warning: {warning}"
    assert "warning" in found._repr_html_()


def test_a_zoom_knows_what_was_there_before() -> None:
    model = tiny("gpt2")
    task = random_task(model, 1, [6, 5])
    coarse = sc.discover(model, task, sc.Acdc(0.0), metric="kl_divergence", scope="block")
    problem = sc.Problem.of(model, task, "kl_divergence", circuit=coarse.circuit)
    finer = look_inside(problem, coarse.circuit, "a1", "head", sc.Acdc(100.0))
    assert finer.metric_before == pytest.approx(coarse.metric_circuit, abs=1e-6)
    assert finer.metric_circuit > coarse.metric_circuit
    lost = finer.faithfulness is not None and coarse.faithfulness is not None and coarse.faithfulness - finer.faithfulness > 0.1
    assert any("the zoom lowered" in warning for warning in finer.warnings) == lost


def test_faithfulness_after_a_search_is_that_of_evaluate() -> None:
    model = tiny("llama_gqa")
    task = random_task(model, 1, [6, 5] * 8)
    found = sc.discover(model, task, "eap-ig-inputs", metric="kl_divergence", selection=60)
    problem = sc.Problem.of(model, task, circuit=found.circuit)
    assert found.faithfulness == pytest.approx(sc.evaluate_circuit(problem, found.circuit).faithfulness, abs=1e-4)


def test_a_judgement_warns_of_circuits_that_hold_nothing() -> None:
    model = tiny("llama_gqa")
    problem = sc.Problem.of(model, random_task(model, 1, [6, 5] * 8), "kl_divergence")
    empty = sc.judge(problem, Circuit.empty(problem.graph), random_circuits=1)
    assert empty.completeness == pytest.approx(1)
    assert empty.warnings == ("the circuit is empty, so its completeness is that of the whole model, 1.",)
    whole = sc.judge(problem, Circuit.full(problem.graph), random_circuits=1)
    assert whole.warnings == ()
    worse = replace(whole.evaluation, metric=worse_than_empty(whole.evaluation.metric))
    assert "does no better than the model with every edge cut" in Judgement(worse, 0.0, (0.0,), None).warnings[0]


def worse_than_empty(readings: Readings) -> Readings:
    return replace(readings, circuits=readings.empty[None] + 1)


def test_every_method_says_what_its_scores_mean() -> None:
    for name, method in METHODS.items():
        known = record().model_copy(update={"method": MethodRecord(name=name, parameters={})})
        assert meaning_of_scores(known) == method.meaning
    assert "after all earlier cuts" in str(METHODS["acdc"].meaning) and "not its effect alone" in str(METHODS["acdc"].meaning)
    assert METHODS["exact"].meaning == "cost of cutting the edge alone in the whole model, measured"
    both = record().model_copy(update={"method": MethodRecord(name="exact", parameters={"direction": "both"})})
    assert "whichever is larger" in (meaning_of_scores(both) or "")
    assert meaning_of_scores(None) is None
    assert meaning_of_scores(record().model_copy(update={"method": MethodRecord(name="theirs", parameters={})})) is None


@pytest.mark.parametrize("method", [Acdc(0.1), Eap()])
def test_nan_weights_are_named(method: Method) -> None:
    model = tiny("llama")
    task = random_task(model, 1, [6, 5])
    assert first_unsound(model, task) is None
    model.weights.layers[1].attention.W_V[0, 0, 0] = float("nan")
    with pytest.raises(NumericalError, match="in the attention of layer 1 on the clean prompt of pair 1, in float32"):
        discover(model, replace(task, metric="logit_difference"), method, scope=Scope.named("head"))


def test_what_only_one_pair_meets_is_named_by_its_number() -> None:
    model = tiny("llama")
    task = random_task(model, 1, [6, 5, 7])
    first, second, third = task.clean.to_lists()
    model.weights.W_E[min({*third} - {*first} - {*second})] = torch.inf
    assert first_unsound(model, task) == "the embedding on the clean prompt of pair 3"


def test_float16_that_overflows_is_told_what_to_do() -> None:
    model = tiny("gpt2", 0, torch.float16)
    task = random_task(model, 1, [6, 5])
    mlp = model.weights.layers[0].mlp
    assert isinstance(mlp, MLPWeights)
    mlp.W_out.mul_(60_000)
    with pytest.raises(NumericalError, match=r"the MLP of layer 0 .*in float16: try bfloat16 or float32"):
        discover(model, replace(task, metric="logit_difference"), Eap(), scope=Scope.named("head"))
