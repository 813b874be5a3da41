"""Edge pruning meets its target, and what it keeps is the circuit that was planted."""

import pytest
import torch

from subcircuit.engine import ABLATIONS
from subcircuit.graph import Graph
from subcircuit.graph.selection import Threshold, TopN
from subcircuit.search import Problem
from subcircuit.search.edge_pruning import EdgePruning
from subcircuit.tasks import metric
from tests.planted import TRUE_EDGES, planted, planted_circuit, planted_task
from tests.problems import random_problem
from tests.tiny_models import tiny


@pytest.mark.slow
@pytest.mark.parametrize(
    ("measured", "ablation"), [("kl_divergence", "resample"), ("logit_difference", "resample"), ("kl_divergence", "mean")]
)
def test_the_planted_circuit_is_what_is_kept(measured, ablation):
    model = planted()
    graph, known = Graph.of(model.config), planted_circuit(model)
    problem = Problem(model, graph, planted_task(model), metric(measured), ABLATIONS[ablation])
    scores = EdgePruning(target=1 - len(TRUE_EDGES) / graph.n_edges).search(problem)
    kept = scores.select(TopN(len(TRUE_EDGES), "signed"))
    if ablation == "resample":
        assert kept.names == known.names
        assert scores.select(Threshold(1.0, "signed")).names == known.names
    else:
        # positions differ from their mean too: what a0.h1 asks for and answers to is part of the circuit then
        assert len(set(kept.names) & set(TRUE_EDGES)) >= len(TRUE_EDGES) - 2


@pytest.mark.slow
def test_as_many_edges_are_likely_kept_as_the_target_leaves():
    model, target = tiny("gpt2"), 0.8
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 2, [6, 5], 1, "kl_divergence", "resample")
    odds = EdgePruning(target).search(problem).scores[graph.edges]
    chances = odds / (1 + odds)
    assert float(chances.mean()) == pytest.approx(1 - target, abs=0.03)


def test_the_target_rises_and_stays():
    config = EdgePruning(target=0.8, steps=10, warm_up=0.5)
    assert torch.tensor([config.target_at(step) for step in range(10)]).tolist() == pytest.approx(
        [0.16, 0.32, 0.48, 0.64, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]
    )
    assert EdgePruning(target=0.8, warm_up=0.0).target_at(0) == 0.8
