"""Nodes at each position or token role: the invariants and oracles of every other level."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.engine import ABLATIONS, Resample, run_circuit
from subcircuit.errors import GraphError, PromptMismatchError, SettingsError
from subcircuit.graph import Circuit, Graph, Scope
from subcircuit.search import Acdc, Problem, zoom
from subcircuit.search.acdc_rules import Within
from subcircuit.search.atp_star import AtpStar
from subcircuit.search.eap import CleanCorrupted, Eap, EapIgActivations, EapIgInputs
from subcircuit.search.exact import Exact
from subcircuit.search.hisp import Hisp
from subcircuit.search.ifr import Ifr
from subcircuit.search.relp import Relp
from subcircuit.search.subnetwork_probing import SubnetworkProbing
from subcircuit.tasks import Roles, Task, graph_of, metric, positions_of, with_positions
from tests.engine.agreement import assert_node_by_node
from tests.engine.test_exact import Walk
from tests.engine.test_forward import real
from tests.oracles import SequentialAcdc
from tests.problems import random_kept, random_task
from tests.search.autograd import Autograd, assert_scores
from tests.tiny_models import narrow, tiny

FAMILIES = ["gpt2", "pythia", "gemma2", "mixtral"]
LEVELS = ["qkv", "block", "head, a1=block", "qkv, kv=grouped", "qkv, m1=neuron, a1=block"]


def with_roles(task: Task, seed: int) -> Task:
    """A task whose positions have roles at random, each prompt in its own order; not all of them need be there."""
    generator = torch.Generator().manual_seed(seed)
    return replace(task, roles=Roles(("rest", "S2", "IO", "END"), torch.randint(0, 4, task.clean.ids.shape, generator=generator)))


def drawn(family: str, seed: int, scope: str, lengths: list[int]):
    """A model, its graph with positions, and a task that knows them."""
    model = tiny(family, seed % 3, dtype=torch.float64)
    model = narrow(model, neurons=3) if model.config.experts is None else model
    asked = Scope.named(scope)
    # prompts of one length line up
    lengths = [max(lengths)] * len(lengths) if asked.positions == "each" else lengths
    task = with_roles(random_task(model, seed, lengths), seed)
    graph = graph_of(model, asked, task)
    return model, graph, with_positions(graph, task)


def scopes(family: str) -> list[str]:
    levels = [f"{level}, m1=expert" for level in ("qkv", "block")] if family == "mixtral" else LEVELS
    return [f"{level}, positions={positions}" for level in levels for positions in ("each", "roles")]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_kept_is_the_model_and_all_cut_the_corrupted_run(family):
    for scope in scopes(family)[1::3]:
        model, graph, task = drawn(family, 1, scope, [6, 4])
        here, ablated = real(task.clean), Resample().values(model, graph, task.corrupted)
        kept, cut = (run_circuit(model, graph, m, task.clean, ablated) for m in (graph.edges, graph.edges & False))
        torch.testing.assert_close(kept[here], model(task.clean)[here], atol=1e-10, rtol=0)
        torch.testing.assert_close(cut[here], model(task.corrupted)[here], atol=1e-10, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=2)
@given(data=st.data(), seed=st.integers(0, 2**20), share=st.sampled_from([0.3, 0.7]), ablation=st.sampled_from(sorted(ABLATIONS)))
def test_any_circuit_equals_the_node_by_node_definition(family, data, seed, share, ablation):
    model, graph, task = drawn(family, seed, data.draw(st.sampled_from(scopes(family))), [5, 4])
    assert task.clean.positions is not None
    assert_node_by_node(model, graph, task, seed, share, ablation)


def test_masks_of_prompts_and_their_gradients():
    model, graph, task = drawn("llama_gqa", 4, "qkv, positions=roles", [5, 4])
    ablated = Resample().values(model, graph, task.corrupted)
    each = torch.stack([random_kept(graph.edges, seed, 0.7) for seed in range(2)]).double().requires_grad_()
    together = run_circuit(model, graph, each, task.clean, ablated)
    weights = torch.randn(together.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradients,) = torch.autograd.grad((together * weights)[real(task.clean)].sum(), each)
    for example in range(2):
        mask = each[example].detach().requires_grad_()
        alone = run_circuit(model, graph, mask, task.clean, ablated)[example]
        torch.testing.assert_close(together[example].detach(), alone.detach(), atol=1e-8, rtol=1e-8)
        here = real(task.clean)[example]
        (gradient,) = torch.autograd.grad((alone * weights[example])[here].sum(), mask)
        torch.testing.assert_close(gradients[example], gradient, atol=1e-8, rtol=1e-8)
        column = random.Random(example).choice(gradient.abs().sum(0).nonzero().flatten().tolist())
        row = int(gradient[:, column].abs().argmax())
        step = torch.zeros_like(mask)
        step[row, column] = 1e-5
        with torch.no_grad():
            up, down = (run_circuit(model, graph, mask + s, task.clean, ablated)[example] for s in (step, -step))
        slope = ((up - down) * weights[example])[here].sum() / 2e-5
        torch.testing.assert_close(gradient[row, column], slope, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama_gqa", "gemma2", "mixtral"])
@settings(max_examples=1)
@given(data=st.data(), seed=st.integers(0, 2**20), ablation=st.sampled_from(sorted(ABLATIONS)))
@torch.no_grad()
def test_engine_equals_masked_forward(family, data, seed, ablation):
    levels = ["block, m1=expert"] if family == "mixtral" else ["head, a1=block", "block, a0=qkv, kv=grouped, m1=neuron"]
    scope = f"{data.draw(st.sampled_from(levels))}, positions={data.draw(st.sampled_from(['each', 'roles']))}"
    model, graph, task = drawn(family, seed, scope, [4, 3])
    problem = Problem(model, graph, task, metric("kl_divergence"), ABLATIONS[ablation])
    Walk(problem, data.draw(st.integers(1, 2)), random.Random(seed)).run()


@pytest.mark.slow
@pytest.mark.parametrize(("family", "positions"), [("gpt2", "each"), ("pythia", "roles")])
@settings(max_examples=1)
@given(level=st.sampled_from(["block, a1=head", "block, a0=qkv"]), seed=st.integers(0, 2**20))
def test_acdc_decides_as_the_sequential_search_does(family, positions, level, seed):
    model, graph, task = drawn(family, seed, f"{level}, positions={positions}", [4, 3])
    problem = Problem(model, graph, task, metric("kl_divergence"), Resample())
    config = Acdc(0.02, batch_size=1, coarse_to_fine=positions == "roles")
    fast, slow = config.search(problem), SequentialAcdc(problem, config)
    assert fast.circuit.kept.equal(slow.run().kept)


@pytest.mark.parametrize("family", ["pythia", "gemma2"])
def test_attributions_are_the_slopes_of_the_loss_in_every_edge(family):
    for scope in scopes(family)[1:3]:
        model, graph, task = drawn(family, 5, scope, [5, 4])
        problem = Problem(model, graph, task, metric("logit_difference"), Resample())
        assert_scores(Eap(1).search(problem), Autograd(problem).slope(graph.edges))


@pytest.mark.parametrize("family", ["gemma2"])
@torch.no_grad()
def test_exact_effects_are_differences_of_masked_runs(family):
    model, graph, task = drawn(family, 5, "qkv, m1=neuron, a1=block, positions=roles", [5, 4])
    problem = Problem(model, graph, task, metric("logit_difference"), Resample())
    slow, scores = Autograd(problem), Exact().search(problem)
    whole = slow.loss(graph.edges)
    for w, r in random.Random(2).sample(graph.edges.nonzero().tolist(), 20):
        kept = graph.edges.clone()
        kept[w, r] = False
        torch.testing.assert_close(scores.scores[w, r].double(), slow.loss(kept) - whole, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", [Eap(), EapIgInputs(), EapIgActivations(), CleanCorrupted(), Relp()])
def test_effects_of_all_positions_add_up_to_those_of_the_whole_edge(method):
    model, graph, task = drawn("llama_gqa", 6, "qkv, a1=block, positions=roles", [6, 4])
    problem = Problem(model, graph, task, metric("logit_difference"), Resample())
    scores_by_position = method.search(problem).scores
    together = method.search(replace(problem, graph=graph.without_positions)).scores
    summed = scores_by_position.unflatten(1, (-1, len(graph.positions))).sum(-1)
    torch.testing.assert_close(summed, together, atol=1e-5, rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize("method", [Hisp(), Ifr(), AtpStar(), SubnetworkProbing()])
def test_methods_that_score_nodes_at_all_positions_say_so(method):
    model, graph, task = drawn("gpt2", 6, "qkv, positions=roles", [6, 4])
    with pytest.raises(SettingsError, match="leave positions out of the scope"):
        method.search(Problem(model, graph, task, metric("logit_difference")))


@pytest.mark.slow
@torch.no_grad()
def test_zooming_into_positions_decides_inside_alone_and_as_the_sequential_search_does():
    model = tiny("gpt2", dtype=torch.float64)
    task, config = with_roles(random_task(model, 5, [5, 4]), 5), Acdc(0.002)
    whole = Circuit.full(Graph.of(model.config, Scope("block")))
    problem = Problem(model, whole.graph, task, metric("kl_divergence"), Resample())
    found = zoom(problem, whole, "a1", "positions", config).circuit
    assert found.graph == graph_of(model, Scope("block", positions="roles"), task)
    kept, tried = found.graph.edges, torch.zeros_like(found.graph.edges)
    for edge in Circuit.full(found.graph).edges:
        tried[found.graph.find(edge)] = "a1@" in str(edge)
    assert 0 < int((kept & ~found.kept).sum()) == int((tried & ~found.kept).sum())
    finer = replace(problem, graph=found.graph)
    slow = SequentialAcdc(finer, config, within=Within(kept, tried)).run()
    assert found.kept.equal(slow.kept)
    with pytest.raises(GraphError, match="already"):
        zoom(finer, found, "m1", "positions", config)


def test_positions_that_the_prompts_do_not_have_are_refused():
    model = tiny("gpt2")
    task = random_task(model, 1, [5, 4])
    each, roles = Scope.named("qkv, positions=each"), Scope.named("head, positions=roles")
    with pytest.raises(PromptMismatchError, match="pair 1 has 5 tokens and pair 2 has 4"):
        positions_of(each, task)
    with pytest.raises(GraphError, match="declares no token roles"):
        positions_of(roles, task)
    with pytest.raises(GraphError, match="pass positions"):
        Graph.of(model.config, roles)
    graph = Graph.of(model.config, roles, ("IO", "END"))
    with pytest.raises(GraphError, match="have no roles"):
        with_positions(graph, task)
    with pytest.raises(GraphError, match="have the roles rest, S2"):
        with_positions(graph, with_roles(task, 1))
    with pytest.raises(GraphError, match="each of 3 positions, and the prompts have 5"):
        with_positions(Graph.of(model.config, each, ("0", "1", "2")), random_task(model, 1, [5]))
    with pytest.raises(GraphError, match="does not fit the graph's positions"):
        Graph.of(model.config, each, ("0", "2"))


def test_a_circuit_at_roles_is_read_back(tmp_path):
    model, graph, _ = drawn("gpt2", 3, "qkv, m1=neuron, positions=roles", [5])
    circuit = Circuit(graph, random_kept(graph.edges, 1, 0.2))
    circuit.save(tmp_path)
    assert Circuit.load(tmp_path) == circuit
    assert any(name.endswith("@S2") for name in circuit.names)
    assert not circuit.graph.unlike_model(model.config)
