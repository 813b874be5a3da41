"""Learned constants are where slow optimisers and closed forms say they are, and everything runs with them."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.engine import Mean, Optimal, Zero
from subcircuit.engine.readout import readout_of
from subcircuit.errors import GraphError
from subcircuit.evaluate import measure
from subcircuit.graph import Circuit, Graph, Scope
from subcircuit.search import Acdc, Eap, Hisp, Problem
from subcircuit.search.optimal import LearnOptimal, learn_optimal
from subcircuit.tasks import metric
from tests.engine.test_forward import scopes_of
from tests.oracles import NodeByNode, SequentialAcdc
from tests.planted import planted, planted_task
from tests.problems import random_kept, random_problem, random_task
from tests.search.autograd import Autograd, assert_scores
from tests.tiny_models import FAMILIES, tiny


def loss_of(problem, ablation, kept):
    return float(Autograd(replace(problem, ablation=ablation)).loss(kept))


def least_slowly(problem, kept, writer):
    """The least loss that a constant of one writer leaves, by L-BFGS through runs node by node."""
    slow = Autograd(replace(problem, ablation=Mean()))
    task, mean = problem.task, slow.ablated[:, 0, 0]
    constant = mean[writer].clone().requires_grad_()
    optimiser = torch.optim.LBFGS([constant], max_iter=15, line_search_fn="strong_wolfe")

    def loss():
        constants = torch.cat([mean[:writer], constant[None], mean[writer + 1 :]])[:, None]
        logits = []
        for ids, length in zip(task.clean.ids.tolist(), task.clean.lengths.tolist(), strict=True):
            runner = NodeByNode(problem.model, problem.graph, kept, constants.expand(-1, length, -1))
            logits.append(runner.run(ids[:length])[1])
        rows = torch.stack([logits[e][p] for e, p in zip(task.answers.example, task.answers.pos, strict=True)])
        return task.answers.mean(slow.bound(readout_of(rows, slow.bound.needs)))

    def closure():
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)
    return float(loss().detach())


@pytest.mark.parametrize(("family", "name"), [("attention_only", "a0.h1"), ("gemma2", "m1")])
def test_the_constant_of_one_writer_is_where_a_slow_optimiser_ends(family, name):
    model = tiny(family, dtype=torch.float64)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 3, [4, 3], 1, "kl_divergence", "resample")
    writer = [str(w) for w in graph.writers].index(name)
    kept = graph.edges.clone()
    kept[writer] = False
    learned = learn_optimal(problem, LearnOptimal(learning_rate=0.1), circuit=Circuit(graph, kept))
    losses = [loss_of(problem, ablation, kept) for ablation in (learned, Mean(), Zero())]
    least = least_slowly(problem, kept, writer)
    assert losses[0] < min(losses[1:])
    assert losses[0] - least < 0.02 * (losses[1] - least) + 1e-6
    mean = Autograd(replace(problem, ablation=Mean())).ablated[:, 0, 0].float()
    untouched = [w for w in range(len(graph.writers)) if w != writer]
    torch.testing.assert_close(learned.constants[untouched], mean[untouched])


@pytest.mark.slow
def test_without_edges_the_best_constants_answer_with_the_mean_distribution():
    model = planted()
    graph, task = Graph.of(model.config), planted_task(model)
    p = task.answers.rows(model(task.clean)).double().softmax(-1)
    least = float((p * (p / p.mean(0)).log()).sum(-1).mean())
    problem, empty = Problem(model, graph, task, metric("kl_divergence")), Circuit.empty(graph)
    learned = learn_optimal(problem, LearnOptimal(), circuit=empty)
    assert loss_of(problem, Mean(), empty.kept) > least + 0.1
    assert loss_of(problem, learned, empty.kept) == pytest.approx(least, abs=0.01)


@pytest.mark.parametrize("family", ["attention_only", "qwen2"])
def test_constants_for_all_circuits_serve_circuits_that_they_have_not_seen(family):
    model = tiny(family)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 5, [4, 6, 5, 7], 1, "kl_divergence", "resample")
    learned = learn_optimal(problem, LearnOptimal(steps=100))
    circuits = [Circuit(graph, random_kept(graph.edges, seed, share)) for seed in range(4) for share in (0.2, 0.5, 0.8)]
    losses = [
        float(measure(replace(problem, ablation=ablation), circuits).circuits.mean()) for ablation in (learned, Mean(), Zero())
    ]
    assert losses[0] < 0.9 * min(losses[1:])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=1)
@given(data=st.data(), seed=st.integers(0, 1000))
@torch.no_grad()
def test_everything_that_takes_an_ablation_takes_constants(family, data, seed):
    model = tiny(family, seed % 3, dtype=torch.float64)
    graph = Graph.of(model.config, data.draw(st.sampled_from(scopes_of(family))))
    constants = torch.randn(len(graph.writers), model.config.d_model, generator=torch.Generator().manual_seed(seed))
    problem = Problem(model, graph, random_task(model, seed, [5, 4]), metric("logit_difference"), Optimal(constants))

    slow = Autograd(problem)
    with torch.enable_grad():
        slope = slow.slope(graph.edges)
    assert_scores(Eap(batch_size=1).search(problem), slope)
    assert torch.equal(*(Hisp().search(problem).scores[graph.edges] for _ in range(2)))
    circuit = Circuit(graph, random_kept(graph.edges, seed, 0.6))
    measured = measure(problem, [circuit], batch_size=1).circuits.mean()
    assert float(measured) == pytest.approx(float(slow.loss(circuit.kept)), abs=1e-8)
    config = Acdc(0.05, batch_size=1)
    assert config.search(problem).circuit.names == SequentialAcdc(problem, config).run().names


@pytest.mark.slow
def test_learning_is_the_same_whatever_the_batches_and_near_in_half_precision():
    precise = tiny("pythia", dtype=torch.float64)
    graph = Graph.of(precise.config)
    problem = random_problem(precise, graph, 5, [4, 6, 5], 1, "kl_divergence", "resample")
    expected = learn_optimal(problem, LearnOptimal(steps=5)).constants
    batched = learn_optimal(problem, LearnOptimal(steps=5, batch_size=2)).constants
    torch.testing.assert_close(batched, expected, atol=1e-5, rtol=0)
    half = learn_optimal(replace(problem, model=precise.to(dtype=torch.bfloat16)), LearnOptimal(steps=5)).constants
    assert half.dtype == torch.float32
    assert float((half - expected).norm()) < 0.3 * float(expected.norm())


def test_a_circuit_of_another_graph_is_refused():
    model = tiny("gpt2")
    problem = random_problem(model, Graph.of(model.config), 1, [5], 1, "kl_divergence", "zero")
    other = Circuit.full(Graph.of(model.config, Scope("block")))
    with pytest.raises(GraphError, match="fit only its own graph"):
        learn_optimal(problem, LearnOptimal(), circuit=other)
