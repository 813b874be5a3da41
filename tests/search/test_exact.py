"""Exact effects equal a masked forward pass per edge; on a linear model attribution is exact."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.engine import run_circuit, writer_values
from subcircuit.engine.readout import readout_of
from subcircuit.errors import NumericalError, SettingsError
from subcircuit.graph import Graph
from subcircuit.model import Transformer
from subcircuit.search import Acdc, Problem
from subcircuit.search.eap import Eap
from subcircuit.search.exact import Exact, effects_of
from subcircuit.search.progress import ProgressCounter
from tests.problems import random_problem
from tests.search.autograd import Autograd, assert_scores
from tests.search.test_acdc import METRICS
from tests.search.test_eap import problems
from tests.tiny_models import FAMILIES, tiny


def effects_slowly(problem: Problem, edges) -> torch.Tensor:
    """The loss with each of these edges cut, less the loss of the model: a whole masked forward pass for each."""
    graph = problem.graph
    slow = Autograd(problem)
    whole, effects = slow.loss(graph.edges), []
    for writer, reader in edges:
        kept = graph.edges.clone()
        kept[writer, reader] = False
        effects.append(slow.loss(kept) - whole)
    return torch.stack(effects)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=2)
@given(data=st.data())
@torch.no_grad()
def test_effects_are_those_of_masked_forward_passes(family, data):
    problem = data.draw(problems(family))
    graph = problem.graph
    size = data.draw(st.integers(1, 3))
    effects = effects_of(problem, graph.edges, size, ProgressCounter(graph.n_edges, None))
    cells = graph.edges.nonzero()
    chosen = cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(size))[:40]].tolist()
    expected = effects_slowly(problem, chosen)
    torch.testing.assert_close(torch.stack([effects[w, r] for w, r in chosen]), expected, atol=1e-8, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama_gqa", "attention_only"])
def test_every_edge_once(family):
    model = tiny(family, dtype=torch.float64)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 4, [5, 6], 1, "accuracy", "resample")
    scores = Exact().search(problem)
    edges = [tuple(cell) for cell in graph.edges.nonzero().tolist()]
    expected = torch.zeros(graph.edges.shape, dtype=torch.float64)
    with torch.no_grad():
        expected[graph.edges] = effects_slowly(problem, edges)
    assert_scores(scores, expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama_gqa", "gpt2", "gemma2"])
@settings(max_examples=2)
@given(seed=st.integers(0, 2**20), metric_name=st.sampled_from(METRICS))
@torch.no_grad()
def test_restored_edges_bring_back_what_a_run_on_corrupted_prompts_shows(family, seed, metric_name):
    model = tiny(family, seed % 2, dtype=torch.float64)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, seed, [6, 4, 5], 2, metric_name, "resample")
    task = problem.task
    clean = writer_values(model, graph, task.clean)
    bound = problem.metric.bind(task.answers, task.answers.rows(model(task.clean)))

    def loss(restored):
        logits = run_circuit(model, graph, graph.edges & ~restored, task.corrupted, clean)
        return float(task.answers.mean(bound(readout_of(task.answers.rows(logits), bound.needs))))

    restored, brought_back = Exact(2, "denoising").search(problem), {}
    for writer, reader in graph.edges.nonzero()[seed % 7 :: 11].tolist():
        one = torch.zeros_like(graph.edges)
        one[writer, reader] = True
        brought_back[writer, reader] = loss(one * False) - loss(one)
    for cell, expected in brought_back.items():
        assert float(restored.scores[cell]) == pytest.approx(expected, abs=1e-7, rel=1e-5)
    cut, both = (config.search(problem).scores for config in (Exact(), Exact(direction="both")))
    assert torch.equal(both[graph.edges], torch.where(restored.scores.abs() > cut.abs(), restored.scores, cut)[graph.edges])


def test_nothing_is_restored_where_cut_edges_carry_constants():
    model = tiny("gpt2")
    graph = Graph.of(model.config)
    zero, mean = (random_problem(model, graph, 1, [6, 5], 1, "accuracy", ablation) for ablation in ("zero", "mean"))
    with pytest.raises(SettingsError, match="zero ablation has no corrupted run"):
        Exact(direction="denoising").search(zero)
    with pytest.raises(SettingsError, match="mean ablation has no corrupted run"):
        Acdc(direction="both").search(mean)


def linear() -> Transformer:
    """Heads that look everywhere alike and read their values without a norm: the logits are linear in the embedding."""
    model = tiny("attention_only_bare", dtype=torch.float64)

    def still(layer):
        w = layer.attention
        assert w.b_Q is not None and w.b_K is not None
        even = replace(w, W_Q=w.W_Q * 0, W_K=w.W_K * 0, b_Q=w.b_Q * 0, b_K=w.b_K * 0)
        return replace(layer, attention=even)

    return replace(model, weights=replace(model.weights, layers=tuple(still(layer) for layer in model.weights.layers)))


@pytest.mark.slow
@settings(max_examples=5)
@given(st.integers(0, 2**20), st.sampled_from(["resample", "zero", "mean", "mean-by-position"]))
def test_on_a_linear_model_attribution_is_exact(seed, ablation):
    model = linear()
    problem = random_problem(model, Graph.of(model.config), seed, [6, 5], 1, "logit_difference", ablation)
    effects = Exact().search(problem).scores.double()
    assert_scores(Eap().search(problem), effects, atol=1e-7)
    assert float(effects.nan_to_num().abs().max()) > 0.01


@pytest.mark.slow
def test_precision_progress_and_errors():
    precise = tiny("gemma2", dtype=torch.float64)
    graph = Graph.of(precise.config)
    problem = random_problem(precise, graph, 7, [8, 5, 9], 1, "logit_difference", "mean")
    expected, rounds = Exact().search(problem).scores, []
    for batch_size in (None, 1, 2):
        scores = Exact(batch_size).search(replace(problem, model=precise.to(dtype=torch.float32)), rounds.append)
        assert_scores(scores, expected.double(), atol=1e-4)
    # the bar weighs edges by the units that run again for them
    assert [step.done for step in rounds if step.done > step.total] == []
    assert rounds[-1].done == rounds[-1].total > graph.n_edges
    with pytest.raises(SettingsError, match="at least 1"):
        Exact(0)
    broken = tiny("llama")
    broken.weights.layers[1].attention.W_V[0, 0, 0] = float("nan")
    with pytest.raises(NumericalError, match="the score of embed"):
        Exact().search(random_problem(broken, Graph.of(broken.config), 1, [6], 1, "kl_divergence", "resample"))
