"""The masked forward pass equals the node-by-node definition, and its two extremes are the model and the corrupted run."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.engine import ABLATIONS, Resample, run_circuit, writer_values
from subcircuit.graph import Circuit, Graph, Scope
from tests.engine.agreement import assert_node_by_node
from tests.problems import random_kept, random_task
from tests.tiny_models import FAMILIES, tiny

SCOPES = [
    Scope("block"),
    Scope("head"),
    Scope("qkv"),
    Scope("qkv", kv="grouped"),
    Scope("qkv", split_embeddings=True),
    Scope.named("qkv, kv=grouped, a0=block, a1=head, a1.h2=qkv"),
    Scope.named("head, a1=block, a0.h1=qkv"),
]
LENGTHS = [7, 4, 9]


@cache
def scopes_of(family: str) -> list[Scope]:
    learned = tiny(family).config.learned_positions
    return [scope for scope in SCOPES if learned or not scope.split_embeddings]


def real(tokens):
    return torch.arange(tokens.ids.shape[1]) < tokens.lengths[:, None]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_all_edges_kept_is_the_model_and_all_cut_the_corrupted_run(family):
    model = tiny(family, dtype=torch.float64)
    task = random_task(model, 1, LENGTHS)
    for scope in scopes_of(family):
        graph = Graph.of(model.config, scope)
        ablated = Resample().values(model, graph, task.corrupted)
        kept, cut = (
            run_circuit(model, graph, mask, task.clean, ablated) for mask in (graph.edges, torch.zeros_like(graph.edges))
        )
        torch.testing.assert_close(kept[real(task.clean)], model(task.clean)[real(task.clean)], atol=1e-10, rtol=0)
        torch.testing.assert_close(cut[real(task.clean)], model(task.corrupted)[real(task.clean)], atol=1e-10, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6)
@given(
    data=st.data(),
    seed=st.integers(0, 2**20),
    share=st.sampled_from([0.1, 0.5, 0.9]),
    ablation=st.sampled_from(sorted(ABLATIONS)),
)
def test_any_circuit_equals_the_node_by_node_definition(family, data, seed, share, ablation):
    model = tiny(family, seed % 3, dtype=torch.float64)
    graph = Graph.of(model.config, data.draw(st.sampled_from(scopes_of(family))))
    task = random_task(model, seed, data.draw(st.lists(st.integers(3, 8), min_size=1, max_size=3)))
    assert_node_by_node(model, graph, task, seed, share, ablation)


@pytest.mark.parametrize("family", FAMILIES)
def test_writers_sum_to_the_last_residual_stream(family):
    model = tiny(family, dtype=torch.float64)
    task = random_task(model, 2, LENGTHS)
    graph = Graph.of(model.config)
    biases = [layer.attention.b_O for layer in model.weights.layers if layer.attention.b_O is not None]
    stream = writer_values(model, graph, task.clean).sum(0) + sum(biases, torch.zeros(()))
    from subcircuit.model.components import unembed

    torch.testing.assert_close(unembed(model.config, model.weights, stream), model(task.clean), atol=1e-10, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_may_have_circuits_of_their_own(family):
    model = tiny(family, dtype=torch.float64)
    task = random_task(model, 4, LENGTHS)
    for scope in scopes_of(family):
        graph = Graph.of(model.config, scope)
        ablated = Resample().values(model, graph, task.corrupted)
        each = torch.stack([random_kept(graph.edges, seed, 0.7) for seed in range(len(LENGTHS))])
        together = run_circuit(model, graph, each, task.clean, ablated)
        for example, kept in enumerate(each):
            alone = run_circuit(model, graph, kept, task.clean, ablated)[example]
            torch.testing.assert_close(together[example], alone, atol=1e-8, rtol=1e-8)


def test_gradients_flow_through_the_mask():
    model = tiny("llama_gqa", dtype=torch.float64)
    task = random_task(model, 3, [5])
    graph = Graph.of(model.config)
    ablated = Resample().values(model, graph, task.corrupted)
    mask = graph.edges.double().requires_grad_()
    run_circuit(model, graph, mask, task.clean, ablated)[0, -1, 7].backward()
    edge = graph.find("m0->a1.h2<v>")
    step = torch.zeros_like(mask)
    step[edge] = 1e-5
    with torch.no_grad():
        up, down = (run_circuit(model, graph, mask + s, task.clean, ablated)[0, -1, 7] for s in (step, -step))
    assert mask.grad is not None
    torch.testing.assert_close(mask.grad[edge], (up - down) / 2e-5, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["resample", "mean"])
def test_gradients_at_a_circuit_that_leaves_units_unread_are_its_slopes(ablation):
    model = tiny("gpt2", dtype=torch.float64)
    task, graph = random_task(model, 3, [5, 5]), Graph.of(model.config)
    mask = Circuit.of_edges(graph, ["embed->m1", "m1->logits", "embed->a0.h1<v>"]).kept.double().requires_grad_()
    ablated = ABLATIONS[ablation].values(model, graph, task.corrupted).requires_grad_()

    def loss(mask, ablated):
        return run_circuit(model, graph, mask, task.clean, ablated)[:, -1, 7].sum()

    def slope(at, cell):
        step = torch.zeros_like(at)
        step[cell] = 1e-5
        moved = [(mask + s, ablated) if at is mask else (mask, ablated + s) for s in (step, -step)]
        return (loss(*moved[0]) - loss(*moved[1])) / 2e-5

    loss(mask, ablated).backward()
    assert mask.grad is not None and ablated.grad is not None
    with torch.no_grad():
        for cell in graph.edges.nonzero().tolist()[::5]:
            torch.testing.assert_close(mask.grad[tuple(cell)], slope(mask, tuple(cell)), rtol=1e-5, atol=1e-8)
        for writer in range(len(graph.writers)):
            cell = (writer, 1, 2, 3)
            torch.testing.assert_close(ablated.grad[cell], slope(ablated, cell), rtol=1e-5, atol=1e-8)


def test_units_that_nobody_reads_are_not_run():
    model = tiny("gpt2")
    task, graph = random_task(model, 1, LENGTHS), Graph.of(model.config)
    ablated = Resample().values(model, graph, task.corrupted)
    kept = Circuit.of_edges(graph, ["embed->m1", "m1->logits"]).kept
    expected = run_circuit(model, graph, kept, task.clean, ablated)
    broken = {layer: model.weights.layers[layer].attention.W_V for layer in range(model.config.n_layers)}
    weights = [
        replace(layer, attention=replace(layer.attention, W_V=torch.full_like(broken[i], torch.nan)))
        for i, layer in enumerate(model.weights.layers)
    ]
    hollow = replace(model, weights=replace(model.weights, layers=tuple(weights)))
    assert torch.equal(run_circuit(hollow, graph, kept, task.clean, ablated), expected)
