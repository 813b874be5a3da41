"""The numbers of a circuit, from its record."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subcircuit.graph import Circuit, Graph, GraphShape, Scope
from subcircuit.report import Summary
from subcircuit.report.summary import percent
from tests.graph.strategies import record

GRAPH = Graph(GraphShape(2, 2, 2), Scope())
CIRCUIT = Circuit(GRAPH, Circuit.of_edges(GRAPH, ["embed->a0.h1<v>", "a0.h1->logits"]).kept, None, record())


def test_numbers_come_from_the_circuit_and_its_record() -> None:
    summary = Summary.of(CIRCUIT)
    assert (summary.edges_kept, summary.edges_total) == (2, GRAPH.n_edges)
    assert (summary.nodes_kept, summary.nodes_total) == (3, 8)
    assert (summary.trials, summary.borderline, summary.kl, summary.threshold) == (1234, 2, 0.25, 0.02)
    assert summary.forward_equivalents == 240
    assert summary.faithfulness == (0.25 - 4.5) / (0.0 - 4.5)
    assert summary.scores is None  # of a circuit without any


def test_rows_say_it_to_people() -> None:
    rows = dict(Summary.of(CIRCUIT).rows)
    assert rows["edges kept"].startswith(f"2 of {GRAPH.n_edges} edges (")
    assert rows["metric"] == "kl_divergence 0.25 (model 0, every edge cut 4.5)"
    assert rows["faithfulness"] == "0.944 on the search prompts (1: the model; 0: every edge cut)"
    assert rows["logit difference"] == "3 (model 4, every edge cut -1)"
    assert rows["seconds"] == "60.0 = 240 plain forward passes"
    assert rows["method"] == "acdc, threshold 0.02, whole input · resample ablation"
    assert rows["task"] == "ioi · 8 pairs of prompts · seed 7"


def test_the_model_s_row_says_which_weights_a_short_name_stood_for() -> None:
    said = record().model_copy(update={"model": record().model.model_copy(update={"origin": "Tiny-Instruct, Q4_1 weights"})})
    summary = Summary.of(replace(CIRCUIT, record=said))
    assert dict(summary.rows)["model"] == "tiny/modèle · Tiny-Instruct, Q4_1 weights · float32"
    assert summary.to_json()["origin"] == "Tiny-Instruct, Q4_1 weights"
    assert dict(Summary.of(CIRCUIT).rows)["model"] == "tiny/modèle · float32"


def test_a_circuit_made_by_hand_has_its_sizes_alone() -> None:
    summary = Summary.of(Circuit.full(GRAPH))
    assert [name for name, _ in summary.rows] == ["scope", "edges kept", "nodes kept"]
    assert summary.title == f"{GRAPH.n_edges} of {GRAPH.n_edges} edges"
    assert summary.caption == ""
    assert summary.to_json()["trials"] is None


def test_json_holds_no_number_that_json_cannot() -> None:
    broken = CIRCUIT.record
    assert broken is not None
    results = {
        **broken.results,
        "kl_circuit": math.nan,
        "metric_corrupted": math.inf,
        "logit_difference_model": 0.0,
        "trials": "many",
    }
    summary = Summary.of(replace(CIRCUIT, record=broken.model_copy(update={"results": results})))
    content = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert [content[key] for key in ("kl", "metric_corrupted", "faithfulness", "trials")] == [None] * 4
    assert summary.rows
    assert summary.title


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_a_percentage_is_near_the_share_and_says_neither_none_nor_all_where_it_is_not(part: int, whole: int) -> None:
    part = min(part, whole)
    shown = percent(part, whole)
    number = float(shown.removesuffix(" %"))
    assert "e" not in shown
    assert number == pytest.approx(100 * part / whole, rel=0.05)
    assert (number == 0) == (part == 0) and (number == 100) == (part == whole)


def test_circuits_of_earlier_versions_have_a_faithfulness_too() -> None:
    assert CIRCUIT.record is not None
    old = {name: value for name, value in CIRCUIT.record.results.items() if name != "logit_difference_corrupted"}
    rows = dict(Summary.of(replace(CIRCUIT, record=CIRCUIT.record.model_copy(update={"results": old}))).rows)
    assert rows["logit difference"] == "3 (model 4)"
    assert "faithfulness" in rows


def test_an_empty_graph_of_numbers_divides_by_nothing() -> None:
    assert Summary.of(Circuit.empty(GRAPH)).share == f"0 of {GRAPH.n_edges} edges (0 %)"
