"""What mask training is made of: the distribution of masks, the loss of masked runs and its gradients, for every family."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.engine import Optimal, last_stream, last_stream_of_nodes
from subcircuit.errors import NumericalError, SettingsError
from subcircuit.graph import Graph
from subcircuit.search.edge_pruning import EdgePruning
from subcircuit.search.masks import MaskedLoss, hard_concrete, log_kept, odds, on_edges
from subcircuit.search.optimal import LearnOptimal, learn_optimal
from subcircuit.search.subnetwork_probing import SubnetworkProbing
from subcircuit.search.ugs import Ugs, uniform_mixture
from tests.problems import random_problem
from tests.search.autograd import Autograd
from tests.search.test_eap import problems
from tests.tiny_models import FAMILIES, tiny

SHORT: dict[str, Any] = {"steps": 3, "seed": 1}
TRAINED: list[tuple[Any, Any]] = [
    (lambda problem, method, *rest: method.search(problem, *rest), SubnetworkProbing),
    (lambda problem, method, *rest: method.search(problem, *rest), EdgePruning),
    (lambda problem, method, *rest: method.search(problem, *rest), Ugs),
    (learn_optimal, LearnOptimal),
]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@given(st.floats(-4, 4), st.integers(0, 100))
@settings(max_examples=5)
def test_the_hard_concrete_distribution_has_the_chances_of_its_closed_form(log_odds, seed):
    draws = hard_concrete(torch.full((40_000,), log_odds), seeded(seed))

    def above(x):
        return 1 / (1 + math.exp(2 / 3 * math.log((x + 0.1) / (1.1 - x)) - log_odds))

    assert draws.min() >= 0 and draws.max() <= 1
    for x in (0.0, 0.3, 0.7):
        assert float((draws > x).float().mean()) == pytest.approx(above(x), abs=0.012)
    assert float((draws == 1).float().mean()) == pytest.approx(above(1.0), abs=0.012)
    assert float(log_kept(torch.tensor(log_odds)).exp()) == pytest.approx(above(0.0), abs=1e-5)


def test_draws_have_the_gradients_of_their_definition():
    log_odds = torch.linspace(-3, 3, 30, dtype=torch.float64).requires_grad_()
    hard_concrete(log_odds, seeded(3)).sum().backward()
    moved = [hard_concrete(log_odds.detach() + step, seeded(3)) for step in (1e-5, -1e-5)]
    assert log_odds.grad is not None
    torch.testing.assert_close(log_odds.grad, (moved[0] - moved[1]) / 2e-5, atol=1e-4, rtol=1e-4)


def test_odds_rank_as_chances_do_and_never_tie():
    log_odds = torch.linspace(-30, 30, 200)
    values = odds(torch.nn.functional.logsigmoid(log_odds))
    torch.testing.assert_close(values, log_odds.exp(), rtol=1e-3, atol=0)
    assert bool((values.diff() > 0).all())


def test_uniform_gradients_are_unbiased_for_what_keeping_an_edge_is_worth():
    log_odds = torch.tensor([0.5, -1.0], requires_grad=True)
    p = log_odds.detach().sigmoid()
    alpha = uniform_mixture(log_odds, 400_000, seeded(0))
    torch.testing.assert_close(alpha.detach().mean(0), p, atol=0.004, rtol=0)
    torch.testing.assert_close(((alpha > 0) & (alpha < 1)).float().mean(0), p * (1 - p), atol=0.004, rtol=0)

    # bends in the first mask; in the second it is linear, so that its mean is all that the first one sees of it
    (alpha[:, 0].exp() * (1 + alpha[:, 1])).mean().backward()
    worth = (torch.e - 1) * (1 + p[1])
    assert log_odds.grad is not None
    assert float(log_odds.grad[0]) == pytest.approx(float(p[0] * (1 - p[0]) * worth), abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=2)
@given(data=st.data())
def test_the_loss_and_its_slopes_are_those_of_masked_runs(family, data):
    problem = data.draw(problems(family))
    model, graph = problem.model, problem.graph
    slow, generator = Autograd(problem), seeded(5)
    values = torch.rand(graph.n_edges, generator=generator, dtype=torch.float64)
    direction = torch.randn(graph.n_edges, generator=generator, dtype=torch.float64)
    constants = torch.randn(len(graph.writers), model.config.d_model, generator=generator, dtype=torch.float64)
    for batch_size in (None, 1):
        loss = MaskedLoss.of(problem, batch_size, last_stream)
        leaf = values.clone().requires_grad_()
        assert loss.backward(on_edges(graph, leaf)[None]) == pytest.approx(float(slow.loss(on_edges(graph, values))), abs=1e-9)
        with torch.no_grad():
            ends = [float(slow.loss(on_edges(graph, values + step * direction))) for step in (1e-6, -1e-6)]
        assert leaf.grad is not None
        assert float(leaf.grad @ direction) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6)

        mask, leaf = on_edges(graph, values)[None], constants.clone().requires_grad_()
        loss.backward(mask, leaf)
        towards = torch.randn(constants.shape, generator=seeded(6), dtype=torch.float64)
        ends = [
            MaskedLoss.of(replace(problem, ablation=Optimal(constants + s * towards)), None, last_stream) for s in (1e-6, -1e-6)
        ]
        ends = [end.backward(mask.clone().requires_grad_()) for end in ends]
        assert leaf.grad is not None
        assert float((leaf.grad * towards).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=2)
@given(data=st.data())
def test_a_mask_on_nodes_is_a_mask_on_all_their_edges(family, data):
    problem = data.draw(problems(family))
    graph = problem.graph
    examples = data.draw(st.sampled_from([1, len(problem.task)]))
    kept = torch.rand(examples, len(graph.writers), generator=seeded(2), dtype=torch.float64)
    edges, nodes = (MaskedLoss.of(problem, 2, run) for run in (last_stream, last_stream_of_nodes))
    slow, fast = kept.clone().requires_grad_(), kept.clone().requires_grad_()
    expected = edges.backward(slow[:, :, None].expand(-1, -1, len(graph.readers)))
    assert nodes.backward(fast) == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-9, rtol=1e-7)


SEARCHES = [
    lambda problem, size: SubnetworkProbing(batch_size=size, **SHORT).search(problem),
    lambda problem, size: EdgePruning(batch_size=size, **SHORT).search(problem),
    lambda problem, size: Ugs(batch_size=size, **SHORT).search(problem),
    lambda problem, size: Ugs(batch_size=size, learn_constants=True, **SHORT).search(problem),
]


@pytest.mark.slow
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=1)
@given(data=st.data())
def test_batches_and_precision_change_nothing_but_rounding(family, search, data):
    problem = data.draw(problems(family))
    graph = problem.graph
    expected = search(problem, None).scores[graph.edges].log()
    again = search(problem, None).scores[graph.edges].log()
    assert torch.equal(again, expected)
    torch.testing.assert_close(search(problem, 1).scores[graph.edges].log(), expected, atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("search", SEARCHES)
def test_half_precision_models_have_masks_in_full_precision(search):
    model = tiny("gemma2", dtype=torch.bfloat16)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 4, [6, 5], 1, "kl_divergence", "mean")
    expected = search(replace(problem, model=tiny("gemma2", dtype=torch.float64)), None).scores[graph.edges].log()
    values = search(problem, None).scores[graph.edges].log()
    # Adam's first steps have the size of the learning rate and the gradients' signs: most of them survive rounding
    assert float(((values - expected).abs() < 0.1).float().mean()) > 0.6


@pytest.mark.slow
def test_seeds_differ_and_progress_adds_up():
    model = tiny("gpt2")
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 1, [6, 5, 4], 1, "logit_difference", "resample")
    for search, config in TRAINED:
        rounds = []
        one = search(problem, config(steps=4, batch_size=2), rounds.append)
        assert [(r.done, r.total) for r in rounds] == [(3, 12), (6, 12), (9, 12), (12, 12)]
        other = search(problem, config(steps=4, seed=1))
        values = [r.constants if isinstance(r, Optimal) else r.scores[graph.edges] for r in (one, other)]
        assert not torch.equal(*values)


def test_what_cannot_be_trained_is_refused():
    model = tiny("gpt2")
    graph = Graph.of(model.config)
    counted = random_problem(model, graph, 1, [6, 5], 1, "accuracy", "resample")
    for search, config in TRAINED:
        with pytest.raises(SettingsError, match="accuracy is a count"):
            search(counted, config())
        for wrong in ({"steps": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"batch_size": 0}):
            with pytest.raises(SettingsError, match=next(iter(wrong))):
                config(**wrong)
    out_of_range: list[dict[str, Any]] = [{"target": 1.0}, {"target": 0.0}, {"warm_up": 1.5}, {"multiplier_rate": -1.0}]
    for wrong in out_of_range:
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            EdgePruning(**wrong)
    for config in (SubnetworkProbing, Ugs):
        with pytest.raises(SettingsError, match="price"):
            config(price=-0.1)


def test_nan_is_named_at_once():
    model = tiny("llama")
    problem = random_problem(model, Graph.of(model.config), 1, [6, 5], 1, "logit_difference", "resample")
    model.weights.layers[1].attention.W_V[0, 0, 0] = float("nan")
    for search, config in TRAINED:
        with pytest.raises(NumericalError, match="logit_difference of a masked run is nan"):
            search(problem, config())


def test_weights_are_left_alone():
    model = tiny("gemma3")
    problem = random_problem(model, Graph.of(model.config), 1, [6, 5], 1, "kl_divergence", "resample")
    before = model.weights.W_E.clone()
    EdgePruning(steps=2).search(problem)
    assert torch.equal(model.weights.W_E, before)
    assert model.weights.W_E.grad is None and not model.weights.W_E.requires_grad
