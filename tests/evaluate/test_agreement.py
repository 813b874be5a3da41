"""Agreements of circuits against plain sets, and those of scores against scipy."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from subcircuit.errors import GraphError, SettingsError
from subcircuit.evaluate import (
    agreements,
    discover,
    models_that_differ,
)
from subcircuit.graph import Circuit, Graph
from subcircuit.search import Eap
from tests.problems import random_task
from tests.tiny_models import tiny


@settings(max_examples=20)
@given(st.integers(0, 2**20), st.booleans())
def test_agreements_are_those_of_sets_and_of_scipy(seed, gaps):
    graph = Graph.of(tiny("attention_only").config)
    generator = torch.Generator().manual_seed(seed)
    circuits = []
    for _ in range(3):
        kept = graph.edges & (torch.rand(graph.edges.shape, generator=generator) < 0.3)
        scores = torch.randn(graph.edges.shape, generator=generator).round(decimals=1)
        untried = torch.rand(graph.edges.shape, generator=generator) < (0.5 if gaps else 0.0)
        circuits.append(Circuit(graph, kept, scores.masked_fill(untried | ~graph.edges, torch.nan)))
    pairs = agreements(circuits)
    assert [(p.left, p.right) for p in pairs] == [(0, 1), (0, 2), (1, 2)]
    for pair in pairs:
        left, right = circuits[pair.left], circuits[pair.right]
        a, b = set(left.names), set(right.names)
        assert (pair.shared, pair.only_left, pair.only_right) == (len(a & b), len(a - b), len(b - a))
        assert pair.jaccard == pytest.approx(len(a & b) / len(a | b))
        assert left.scores is not None
        assert right.scores is not None
        both = [(x, y) for x, y in zip(left.scores.flatten().tolist(), right.scores.flatten().tolist(), strict=True)]
        both = [(x, y) for x, y in both if x == x and y == y]
        assert pair.scored == len(both)
        assert pair.rank_correlation == pytest.approx(spearmanr(*zip(*both, strict=True)).statistic)  # pyright: ignore


def test_what_cannot_be_compared_is_refused_or_left_open():
    graph, other = (Graph.of(tiny(name).config) for name in ("attention_only", "gpt2"))
    with pytest.raises(GraphError, match="different graphs"):
        agreements([Circuit.full(graph), Circuit.full(other)])
    with pytest.raises(SettingsError, match="at least two"):
        agreements([Circuit.full(graph)])
    (pair,) = agreements([Circuit.full(graph), Circuit.empty(graph)])
    assert (pair.jaccard, pair.scored, pair.rank_correlation) == (0.0, 0, None)


def test_circuits_of_different_models_are_told_apart():
    """By weights in one dtype, else by revision, else by name; of a circuit without a record nothing is said."""
    graph = Graph.of(tiny("gpt2").config)
    circuit = discover(tiny("gpt2"), random_task(tiny("gpt2"), 1, [6, 5]), Eap(), metric="logit_difference").circuit
    assert circuit.record is not None and circuit.record.model.weights is not None
    own = circuit.record.model.model_copy(update={"revision": "sha256:" + "0" * 64})

    def of(**other: object) -> Circuit:
        assert circuit.record is not None
        return replace(circuit, record=circuit.record.model_copy(update={"model": own.model_copy(update=other)}))

    assert models_that_differ([of(), Circuit.full(graph), of(name="elsewhere"), of(dtype="bfloat16", weights="b")]) == ()
    for other in (
        {"weights": "b"},
        {"dtype": "bfloat16", "revision": "sha256:1"},
        {"weights": None, "revision": None, "name": "n"},
    ):
        (warning,) = models_that_differ([Circuit.full(graph), of(), of(**other)])
        assert warning.startswith("circuit 3 was found in ") and "circuit 2 in " in warning
