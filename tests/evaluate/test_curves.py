"""Curves: which edges stand at each point, and the two areas, against plain definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import GraphError, NumericalError
from subcircuit.evaluate import PERCENTAGES, Curve, CurvePoint, curve, faithfulness, measure, measure_all
from subcircuit.graph import Circuit, Graph, Scope
from subcircuit.tasks import metric
from tests.problems import random_problem
from tests.tiny_models import tiny


def of_values(values):
    return Curve("signed", tuple(CurvePoint(p, 0, 0, f, None, 0.0) for p, f in zip(PERCENTAGES, values, strict=True)))


@given(st.lists(st.floats(-3, 3), min_size=len(PERCENTAGES), max_size=len(PERCENTAGES)))
def test_areas_are_trapezoids(values):
    found, xs, f = of_values(values), np.array(PERCENTAGES) / 100, np.array(values)
    assert found.cpr == pytest.approx(np.trapezoid(f, xs))
    assert found.cmd == pytest.approx(np.trapezoid(abs(1 - f), xs))
    assert found.cpr_log == pytest.approx(np.trapezoid(f, np.log10(xs)) / 3)
    assert found.cmd_log == pytest.approx(np.trapezoid(abs(1 - f), np.log10(xs)) / 3)


def test_a_perfect_ranking_and_one_that_finds_nothing_before_the_end():
    perfect = of_values([1.0] * 10)
    assert (perfect.cpr, perfect.cmd) == pytest.approx((0.999, 0.0))
    assert (perfect.cpr_log, perfect.cmd_log) == pytest.approx((1.0, 0.0))
    late = of_values([0.0] * 9 + [1.0])
    assert (late.cpr, late.cmd) == pytest.approx((0.25, 0.749))


@pytest.mark.slow
@settings(max_examples=2)
@given(seed=st.integers(0, 2**20), by=st.sampled_from(["signed", "absolute"]), ties=st.booleans())
def test_each_point_is_the_circuit_of_the_highest_scores(seed, by, ties):
    model = tiny("pythia", dtype=torch.float64)
    graph = Graph.of(model.config, Scope("head"))
    problem = random_problem(model, graph, seed, [5, 4], 1, "kl_divergence", "resample")
    scores = torch.randn(graph.edges.shape, generator=torch.Generator().manual_seed(seed))
    scores = (scores.round() if ties else scores).masked_fill(~graph.edges, math.nan)
    found = curve(problem, scores, by)
    size = {e: abs(s) if by == "absolute" else s for e in Circuit.full(graph).edges for s in [float(scores[graph.find(e)])]}
    # sorted() is stable and edges come by reader and then by writer
    order = sorted(size, key=lambda e: -size[e])
    for point, percent in zip(found.points, PERCENTAGES, strict=True):
        count = math.floor(round(percent * 10) * graph.n_edges / 1000)
        circuit = Circuit.of_edges(graph, order[:count])
        assert (point.percent, point.edges, point.kept) == (percent, count, circuit.prune().n_edges)
        # under resample ablation, pruning changes nothing
        (expected,) = faithfulness(measure(problem, [circuit]))
        assert point.faithfulness == pytest.approx(float(expected), abs=1e-7)
        (divergence,) = measure_all(problem, [circuit], (metric("kl_divergence"),))
        assert point.kl == pytest.approx(float(divergence.circuits.mean()), abs=1e-9)
    assert found.points[-1].faithfulness == pytest.approx(1)
    assert found.by == by


def test_scores_that_cannot_be_ranked_are_refused():
    model = tiny("gpt2")
    graph = Graph.of(model.config, Scope("block"))
    problem = random_problem(model, graph, 0, [5, 6], 1, "kl_divergence", "resample")
    scores = torch.zeros(graph.edges.shape)
    scores[graph.find("m0->a1")] = math.nan
    with pytest.raises(NumericalError, match="m0->a1 is nan"):
        curve(problem, scores)
    with pytest.raises(GraphError, match="shape"):
        curve(problem, scores[:-1])
