"""Scores that are no slopes of the loss: chance, information flow, node importance."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.engine import run_circuit
from subcircuit.engine.readout import readout_of
from subcircuit.errors import NoGradientError, SettingsError
from subcircuit.graph import Graph, Logits
from subcircuit.search.hisp import Hisp
from subcircuit.search.ifr import Ifr
from subcircuit.search.random_scores import RandomScores
from tests.oracles import NodeByNode
from tests.problems import random_problem
from tests.search.autograd import Autograd, assert_scores
from tests.search.test_eap import problems
from tests.tiny_models import FAMILIES, tiny


def test_chance_depends_on_the_seed_alone():
    model, other = tiny("gpt2"), tiny("gpt2", 1)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 1, [5], 1, "accuracy", "zero")
    scores = [
        RandomScores(seed).search(replace(problem, model=m)).scores[graph.edges]
        for m, seed in ((model, 3), (other, 3), (model, 4))
    ]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])
    assert 0 <= scores[0].min() < 0.1 < 0.9 < scores[0].max() < 1


def flow_slowly(problem):
    """Importances reader by reader and position by position, on unpadded prompts."""
    model, graph = problem.model, problem.graph
    task, total = problem.task, torch.zeros(graph.edges.shape, dtype=torch.float64)
    for example, length in enumerate(task.clean.lengths.tolist()):
        nothing = torch.zeros(len(graph.writers), length, model.config.d_model, dtype=model.dtype)
        runner = NodeByNode(model, graph, graph.edges, nothing)
        values, _ = runner.run(task.clean.ids[example, :length].tolist())
        answers = sorted(set(task.answers.pos[task.answers.example == example].tolist()))
        for r, reader in enumerate(graph.readers):
            x = runner.read(reader, {w: v for w, v in values.items() if graph.edges[graph.writer_index[w], r]})
            places = answers if isinstance(reader, Logits) else list(range(answers[-1] + 1))
            for p in places:
                near = {
                    w: max(0.0, float(x[p].abs().sum() - (x[p] - v[p]).abs().sum()))
                    for w, v in values.items()
                    if graph.edges[graph.writer_index[w], r]
                }
                for w, proximity in near.items():
                    total[graph.writer_index[w], r] += proximity / (sum(near.values()) or 1) / len(places) / len(task)
    return total


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "pythia", "llama_gqa", "gemma2", "attention_only"])
@settings(max_examples=2)
@given(data=st.data())
def test_information_flow_equals_its_definition(family, data):
    problem = data.draw(problems(family))
    scores = Ifr(batch_size=data.draw(st.sampled_from([None, 1, 2]))).search(problem)
    assert_scores(scores, flow_slowly(problem), atol=1e-7)
    assert float(scores.scores.nansum(0)[-1]) == pytest.approx(1)


def importance_slowly(problem):
    """|slope of the loss when all edges out of a writer are cut| per example, through split inputs."""
    model, graph = problem.model, problem.graph
    slow, importance = Autograd(problem), torch.zeros(len(graph.writers), dtype=torch.float64)
    for example in range(len(problem.task)):
        mask = graph.edges.double().requires_grad_()
        task = problem.task
        rows = task.answers.rows(run_circuit(model, graph, mask, task.clean, slow.ablated))

        loss = task.answers.per_example(slow.bound(readout_of(rows, slow.bound.needs)))[example]
        (gradient,) = torch.autograd.grad(loss, mask)
        importance += gradient.masked_fill(~graph.edges, 0).sum(1).abs() / len(task)
    return importance


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=2)
@given(data=st.data())
def test_node_importance_is_the_slope_in_all_edges_out_of_a_node(family, data):
    problem = data.draw(problems(family))
    config, importance = Hisp(batch_size=data.draw(st.sampled_from([None, 1]))), importance_slowly(problem)
    try:
        found = config.search(problem)
    except NoGradientError:
        assert float(importance.max()) < 1e-9
        return
    # a divergence at its minimum ranks nothing; slopes of other metrics may be as small, and still rank nodes
    assert not problem.metric.distance or float(importance.max()) >= 1e-9
    assert_scores(found, of_nodes_slowly(problem.graph, importance), atol=1e-6)


def of_nodes_slowly(graph, importance):
    """Scores of edges from the importance of their ends, each layer's scaled to one."""
    for layer in {getattr(w, "layer", -1) for w in graph.writers}:
        mine = [i for i, w in enumerate(graph.writers) if getattr(w, "layer", -1) == layer]
        importance[mine] = importance[mine] / importance[mine].pow(2).sum().sqrt()
    expected = torch.zeros(graph.edges.shape, dtype=torch.float64)
    for r, reader in enumerate(graph.readers):
        node = max((float(importance[w]) for w in graph.owners(reader)), default=torch.inf)
        expected[:, r] = importance.clamp(max=node)
    return expected


def test_counts_have_no_importance():
    model = tiny("gpt2")
    with pytest.raises(SettingsError, match="accuracy is a count"):
        Hisp().search(random_problem(model, Graph.of(model.config), 1, [5], 1, "accuracy", "zero"))
