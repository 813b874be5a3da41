"""Methods at the levels of neurons and positions: the oracles that they agree with at every other level."""

import pytest
import torch

from subcircuit.engine import Resample
from subcircuit.engine.forward import last_stream, last_stream_of_nodes
from subcircuit.graph import Graph, Scope
from subcircuit.search import Problem
from subcircuit.search.eap import EapIgActivations, EapIgInputs
from subcircuit.search.exact import Exact
from subcircuit.search.hisp import Hisp
from subcircuit.search.hybrid import Hybrid
from subcircuit.search.ifr import Ifr
from subcircuit.search.masks import MaskedLoss, on_edges
from subcircuit.search.random_scores import RandomScores
from subcircuit.search.relp import Relp
from subcircuit.tasks import metric
from tests.engine.test_positions import drawn
from tests.problems import random_problem
from tests.search.autograd import Autograd, assert_scores
from tests.search.test_baselines import flow_slowly, importance_slowly, of_nodes_slowly
from tests.search.test_eap import integrated_slowly, staged_slowly
from tests.search.test_relp import slope_by_rules
from tests.tiny_models import narrow, tiny

pytestmark = pytest.mark.slow

# biases and no gate, a gate, post-norms under which neurons share a scale
FAMILIES = ["gpt2", "llama_gqa", "gemma2"]
SCOPE = "neuron, m0=block, a1=block, a2.h1=head"


def at_neurons(family):
    model = narrow(tiny(family, dtype=torch.float64), 3)
    graph = Graph.of(model.config, Scope.named(SCOPE))
    return random_problem(model, graph, 5, [3], 1, "logit_difference", "resample")


def at_positions(family, positions, level="head, a1=block, m1=neuron"):
    model, graph, task = drawn(family, 6, f"{level}, positions={positions}", [4, 3])
    return Problem(model, graph, task, metric("logit_difference"), Resample())


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_neurons_are_those_of_the_slow_definitions(family):
    problem = at_neurons(family)
    slow = Autograd(problem)
    assert_scores(EapIgInputs(2).search(problem), integrated_slowly(slow, 2))
    assert_scores(EapIgActivations(2).search(problem), staged_slowly(slow, 2))
    assert_scores(Relp().search(problem), slope_by_rules(problem))
    assert_scores(Ifr().search(problem), flow_slowly(problem), atol=1e-7)
    assert_scores(Hisp().search(problem), of_nodes_slowly(problem.graph, importance_slowly(problem)), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_that_are_trained_have_the_loss_and_the_slopes_of_masked_runs(family):
    """What edge-pruning and ugs descend on, at neurons and positions; subnetwork-probing masks nodes, at neurons alone."""
    assert_masked_loss(at_positions(family, "roles" if family == "gpt2" else "each"))
    problem = at_neurons(family)
    graph = problem.graph
    assert_masked_loss(problem)
    kept = torch.rand(1, len(graph.writers), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    slow, fast = kept.clone().requires_grad_(), kept.clone().requires_grad_()
    edges, nodes = (MaskedLoss.of(problem, 2, run) for run in (last_stream, last_stream_of_nodes))
    expected = edges.backward(slow[:, :, None].expand(-1, -1, len(graph.readers)))
    assert nodes.backward(fast) == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-9, rtol=1e-7)


def assert_masked_loss(problem):
    graph = problem.graph
    slow, generator = Autograd(problem), torch.Generator().manual_seed(5)
    values, direction = torch.rand(2, graph.n_edges, generator=generator, dtype=torch.float64)
    leaf = values.clone().requires_grad_()
    loss = MaskedLoss.of(problem, 1, last_stream).backward(on_edges(graph, leaf)[None])
    with torch.no_grad():
        here, *ends = (float(slow.loss(on_edges(graph, values + step * direction))) for step in (0, 1e-6, -1e-6))
    assert loss == pytest.approx(here, abs=1e-9)
    assert leaf.grad is not None
    assert float(leaf.grad @ direction) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6)


def test_hybrid_and_chance_score_every_edge_at_every_position():
    problem = at_positions("llama_gqa", "each", "block, a1=head")
    graph = problem.graph
    # all are nominated: what is left of the attribution is nothing
    everything = Hybrid(coverage=1.0, most=graph.n_edges, sample=0).search(problem).scores
    torch.testing.assert_close(everything, Exact().search(problem).scores, equal_nan=True)
    few = Hybrid(coverage=1.0, most=25, sample=5).search(problem)
    largest = EapIgInputs(5).search(problem).scores.abs().nan_to_num(-1).flatten().topk(25).indices
    measured = torch.zeros(graph.edges.numel(), dtype=torch.bool)
    measured[largest] = True
    expected = everything.where(measured.view(graph.edges.shape), 0).masked_fill(~graph.edges, torch.nan)
    torch.testing.assert_close(few.scores, expected, equal_nan=True)
    scores = RandomScores(3).search(problem).scores
    assert scores.isfinite().equal(graph.edges)
    assert len(scores[graph.edges].unique()) > 0.99 * graph.n_edges
