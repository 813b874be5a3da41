"""Recovery: scikit-learn is the oracle for ROC and average precision, an integral by hand for the pessimistic area."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score, roc_curve

from subcircuit.errors import GraphError, NumericalError, SettingsError
from subcircuit.evaluate import Roc, overlap, recovery, roc_of_circuits
from subcircuit.graph import Circuit, Graph, GraphShape, Scope
from tests.graph.strategies import circuits, graphs


@st.composite
def scored_circuits(draw):
    """A known circuit with positives and negatives, and scores that are often tied."""
    known = draw(circuits())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scores = torch.randn(known.kept.shape, generator=generator) + draw(st.sampled_from([0.0, 2.0])) * known.kept
    scores = scores.round() if draw(st.booleans()) else scores
    return known, scores.masked_fill(~known.graph.edges, math.nan)


def labels_and_scores(known, scores, part, by):
    """In any order: one truth value and one score for each edge or writer."""
    size = (
        (lambda e: abs(float(scores[known.graph.find(e)])))
        if by == "absolute"
        else (lambda e: float(scores[known.graph.find(e)]))
    )
    edges = Circuit.full(known.graph).edges
    if part == "edges":
        return [e in set(known.edges) for e in edges], [size(e) for e in edges]
    touching = {w: [] for w in known.graph.writers}
    for edge in edges:
        for node in Circuit.of_edges(known.graph, [edge]).nodes:
            touching.get(node, []).append(size(edge))
    return [w in set(known.nodes) for w in touching], [max(sizes) for sizes in touching.values()]


@pytest.mark.slow
@given(scored_circuits(), st.sampled_from(["edges", "nodes"]), st.sampled_from(["signed", "absolute"]))
def test_roc_and_average_precision_are_scikit_learn_s(scored, part, by):
    known, scores = scored
    truth, values = labels_and_scores(known, scores, part, by)
    assume(0 < sum(truth) < len(truth))
    found = recovery(known, scores, part, by)
    assert (found.positives, found.negatives) == (sum(truth), len(truth) - sum(truth))
    fpr, tpr, _ = roc_curve(truth, values, drop_intermediate=False)
    assert np.allclose(found.roc.fpr, fpr)
    assert np.allclose(found.roc.tpr, tpr)
    assert found.roc.auc == pytest.approx(roc_auc_score(truth, values))
    assert found.average_precision == pytest.approx(average_precision_score(truth, values))
    assert found.roc.auc_pessimistic <= found.roc.auc + 1e-12
    if len(set(values)) == len(values):
        assert found.roc.auc_pessimistic == pytest.approx(found.roc.auc)


points = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=8)


@given(points)
def test_the_pessimistic_area_is_under_the_best_point_further_left(sweep):
    roc = Roc.of([(x / 20, y / 20) for x, y in sweep])
    cells = (np.arange(20) + 0.5) / 20
    # right before up: at x, the highest point at x or left of it
    heights = [max([0.0, *(y / 20 for a, y in sweep if a / 20 <= x)]) for x in cells]
    assert roc.auc_pessimistic == pytest.approx(np.mean(heights))
    assert roc.auc_pessimistic <= roc.auc + 1e-12


@pytest.mark.parametrize(
    ("between", "area"),
    [([], 0.0), ([(0.5, 0.5)], 0.25), ([(0.25, 0.25)], 3 / 16), ([(0.25, 0.25), (0.5, 0.5)], 5 / 16), ([(0.0, 1.0)], 1.0)],
)
def test_pessimistic_areas_worked_out_by_hand(between, area):
    assert Roc.of(between).auc_pessimistic == pytest.approx(area)


@pytest.mark.slow
@given(st.data(), st.sampled_from(["edges", "nodes"]))
def test_overlap_is_scikit_learn_s_precision_and_recall(data, part):
    known = data.draw(circuits())
    found = data.draw(circuits(known.graph))
    everything = Circuit.full(known.graph).edges if part == "edges" else known.graph.writers
    truth, mine = ([p in set(getattr(c, part)) for p in everything] for c in (known, found))
    assume(0 < sum(truth) < len(truth))
    one = overlap(known, found, part)
    assert one.precision == pytest.approx(precision_score(truth, mine) if any(mine) else 0)
    assert one.recall == pytest.approx(recall_score(truth, mine))
    assert one.fpr == pytest.approx(recall_score([not t for t in truth], mine))


@pytest.mark.slow
@given(scored_circuits(), st.lists(st.floats(-3, 3), max_size=4))
def test_a_sweep_of_thresholds_lies_on_the_roc_of_the_scores(scored, thresholds):
    known, scores = scored
    assume(0 < known.n_edges < known.graph.n_edges)
    sweep = [Circuit(known.graph, known.graph.edges & (scores >= t)) for t in thresholds]
    of_sweep, of_scores = roc_of_circuits(known, sweep), recovery(known, scores).roc
    on_curve = set(zip(of_scores.fpr, of_scores.tpr, strict=True))
    assert all(any(p == pytest.approx(q) for q in on_curve) for p in zip(of_sweep.fpr, of_sweep.tpr, strict=True))
    assert of_sweep.auc_pessimistic <= of_scores.auc_pessimistic + 1e-9


def test_what_cannot_be_compared_is_refused():
    graph = Graph(GraphShape(2, 2, 2), Scope("block"))
    other = Graph(GraphShape(2, 2, 2), Scope("head"))
    known = Circuit.of_edges(graph, ["m0->m1"])
    with pytest.raises(GraphError, match="different graphs"):
        overlap(known, Circuit.empty(other))
    with pytest.raises(SettingsError, match="parts inside and parts outside"):
        overlap(Circuit.empty(graph), known)
    with pytest.raises(SettingsError, match="parts inside and parts outside"):
        recovery(Circuit.full(graph), torch.zeros(graph.edges.shape))
    with pytest.raises(GraphError, match="shape"):
        recovery(known, torch.zeros(other.edges.shape))
    scores = torch.zeros(graph.edges.shape)
    scores[graph.find("m0->m1")] = math.nan
    with pytest.raises(NumericalError, match="m0->m1"):
        recovery(known, scores)


@pytest.mark.slow
@given(graphs())
def test_all_nodes_have_a_score(graph):
    edges = Circuit.full(graph).edges
    known = Circuit.of_edges(graph, edges[:1])
    assume(len(known.nodes) < len(graph.writers))
    assert recovery(known, torch.zeros(graph.edges.shape), "nodes").roc.auc == pytest.approx(0.5)
