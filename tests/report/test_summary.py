"""The numbers of a circuit, from its record."""

import json
import math
from dataclasses import replace

from subcircuit.graph import Circuit, Graph, GraphShape, Scope
from subcircuit.report import Summary
from tests.graph.strategies import record

GRAPH = Graph(GraphShape(2, 2, 2), Scope())
CIRCUIT = Circuit(GRAPH, Circuit.of_edges(GRAPH, ["embed->a0.h1<v>", "a0.h1->logits"]).kept, None, record())


def test_numbers_come_from_the_circuit_and_its_record() -> None:
    summary = Summary.of(CIRCUIT)
    assert (summary.edges_kept, summary.edges_total) == (2, GRAPH.n_edges)
    assert (summary.nodes_kept, summary.nodes_total) == (3, 8)
    assert (summary.trials, summary.borderline, summary.kl, summary.threshold) == (1234, 2, 0.25, 0.02)
    assert summary.forward_equivalents == 240
    assert summary.logit_difference_kept == 0.75


def test_rows_say_it_to_people() -> None:
    rows = dict(Summary.of(CIRCUIT).rows)
    assert rows["edges kept"].startswith(f"2 of {GRAPH.n_edges} edges (")
    assert rows["logit difference"] == "3 of 4 (75 % kept)"
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
    assert [content[key] for key in ("kl", "metric_corrupted", "logit_difference_kept", "trials")] == [None] * 4
    assert summary.rows
    assert summary.title


def test_an_empty_graph_of_numbers_divides_by_nothing() -> None:
    assert Summary.of(Circuit.empty(GRAPH)).share == f"0 of {GRAPH.n_edges} edges (0 %)"
