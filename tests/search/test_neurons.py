"""Scores of all neurons equal the sums of their edges' scores, and masks on neurons equal masks on all their edges."""

from dataclasses import replace

import pytest
import torch

from subcircuit.engine import Mean
from subcircuit.engine.forward import last_stream_of_nodes
from subcircuit.engine.readout import read
from subcircuit.errors import GraphError, NumericalError, SettingsError
from subcircuit.graph import Graph, Neuron, Scope
from subcircuit.model.weights import MLPWeights
from subcircuit.search import Eap, loss_with_neurons, neuron_scores
from tests.problems import random_problem
from tests.tiny_models import narrow, tiny


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "pythia", "llama_gqa"])
@pytest.mark.parametrize("ablation", ["resample", "zero"])
def test_a_neuron_s_score_is_the_sum_of_its_edges_scores(family, ablation):
    model = narrow(tiny(family, dtype=torch.float64))
    graph = Graph.of(model.config, Scope("neuron"))
    problem = random_problem(model, graph, 5, [6, 4, 5], 2, "logit_difference", ablation)
    edges, scores = Eap().search(problem).scores.nansum(1), neuron_scores(problem, Eap(2)).values
    for row, writer in enumerate(graph.writers):
        if isinstance(writer, Neuron):
            assert float(scores[writer.layer, writer.neuron]) == pytest.approx(float(edges[row]), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "pythia", "llama_gqa", "gemma2"])
@torch.no_grad()
def test_masks_on_neurons_are_masks_on_nodes(family):
    model = narrow(tiny(family, dtype=torch.float64))
    graph = Graph.of(model.config, Scope("neuron"))
    problem = random_problem(model, graph, 6, [5, 4], 1, "logit_difference", "resample")
    task = problem.task
    kept = torch.rand(model.config.n_layers, model.config.d_mlp, generator=torch.Generator().manual_seed(1)) < 0.5
    mask = [float(kept[w.layer, w.neuron]) if isinstance(w, Neuron) else 1.0 for w in graph.writers]
    ablated = problem.ablation.values(model, graph, task.corrupted)
    last = last_stream_of_nodes(model, graph, torch.tensor(mask), task.clean, ablated)
    bound = problem.metric.bind(task.answers, None)
    loss = task.answers.mean(bound(read(model, task.answers.rows(last), bound.needs)))
    if family != "gemma2":
        assert loss_with_neurons(problem, kept) == pytest.approx(float(problem.metric.value(loss)), rel=1e-6)
    everything = task.answers.mean(bound(read(model, task.answers.rows(model.stream(task.clean)), bound.needs)))
    assert loss_with_neurons(problem, kept | True) == pytest.approx(float(problem.metric.value(everything)), rel=1e-6)


def test_the_largest_neurons_are_kept():
    model = narrow(tiny("gpt2", dtype=torch.float64))
    scores = neuron_scores(random_problem(model, Graph.of(model.config), 5, [6], 1, "logit_difference", "resample"), Eap())
    best = scores.largest(4)
    assert [abs(score) for _, score in best] == sorted(scores.values.abs().flatten().tolist(), reverse=True)[:4]
    assert {(n.layer, n.neuron) for n, _ in best} == {tuple(at) for at in scores.keep(4).nonzero().tolist()}


def test_what_cannot_be_ranked_is_refused():
    model, bare = narrow(tiny("gpt2")), tiny("attention_only")
    problem = random_problem(model, Graph.of(model.config), 5, [6], 1, "logit_difference", "resample")
    with pytest.raises(SettingsError, match="resample or zero"):
        neuron_scores(replace(problem, ablation=Mean()), Eap())
    with pytest.raises(GraphError, match="no MLPs"):
        neuron_scores(random_problem(bare, Graph.of(bare.config), 5, [6], 1, "logit_difference", "resample"), Eap())
    mlp = model.weights.layers[1].mlp
    assert isinstance(mlp, MLPWeights)
    mlp.W_out[2, 3] = float("nan")
    with pytest.raises(NumericalError, match=r"m[01]\.n"):
        neuron_scores(problem, Eap())
