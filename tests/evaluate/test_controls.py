"""Random circuits, the reset model, stability."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import GraphError, SettingsError
from subcircuit.evaluate import random_circuit, random_connected_circuit, reset, stability
from subcircuit.graph import Circuit, Graph, GraphShape, Scope
from subcircuit.model import named_tensors
from tests.graph.strategies import circuits, graphs
from tests.tiny_models import FAMILIES, tiny


@pytest.mark.slow
@given(graphs(), st.integers(0, 2**20), st.floats(0, 1))
def test_random_circuits_have_as_many_edges_as_asked_for(graph, seed, share):
    n = int(share * graph.n_edges)
    circuit = random_circuit(graph, n, seed)
    assert circuit.n_edges == n
    assert circuit == random_circuit(graph, n, seed)


def test_every_edge_is_as_likely_as_any_other():
    graph = Graph(GraphShape(2, 2, 2), Scope("block"))
    n, draws = graph.n_edges // 3, 3000
    drawn = torch.stack([random_circuit(graph, n, seed).kept for seed in range(draws)])
    shares = drawn.double().mean(0)[graph.edges]
    expected = n / graph.n_edges
    # five standard errors
    assert float((shares - expected).abs().max()) < 5 * (expected * (1 - expected) / draws) ** 0.5


@settings(max_examples=30)
@given(graphs(most_layers=2, positioned=True), st.integers(0, 2**20), st.floats(0.05, 0.6))
def test_connected_random_circuits_have_nothing_to_prune(graph, seed, share):
    n = max(1, int(share * graph.n_edges))
    circuit = random_connected_circuit(graph, n, seed)
    assert circuit.n_edges == n
    assert torch.equal(circuit.prune().kept, circuit.kept)
    assert circuit == random_connected_circuit(graph, n, seed)


def test_seeds_give_different_circuits_and_the_whole_graph_is_reached():
    graph = Graph(GraphShape(2, 2, 2), Scope())
    for draw in (random_circuit, random_connected_circuit):
        assert len({draw(graph, 12, seed) for seed in range(10)}) == 10
        assert draw(graph, graph.n_edges) == Circuit.full(graph)
        with pytest.raises(SettingsError, match="the graph has"):
            draw(graph, graph.n_edges + 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reset_model_has_the_same_numbers_in_other_places(family):
    model = tiny(family)
    before = dict(named_tensors(model.weights))
    values = {name: tensor.clone() for name, tensor in before.items()}
    after = dict(named_tensors(reset(model, 3).weights))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, values[name])
        assert torch.equal(after[name].flatten().sort().values, tensor.flatten().sort().values)
        assert after[name].shape == tensor.shape
        assert not torch.equal(after[name], tensor)
    assert (after["W_U"] is after["W_E"]) == (before["W_U"] is before["W_E"])
    again, other = dict(named_tensors(reset(model, 3).weights)), dict(named_tensors(reset(model, 4).weights))
    assert torch.equal(again["W_E"], after["W_E"])
    assert not torch.equal(other["W_E"], after["W_E"])


@pytest.mark.slow
@given(st.data())
def test_stability_is_jaccard_of_every_pair_and_the_share_that_keeps_an_edge(data):
    first = data.draw(circuits())
    group = [first, *(data.draw(circuits(first.graph)) for _ in range(data.draw(st.integers(1, 3))))]
    found = stability(group)
    sets = [set(circuit.names) for circuit in group]
    expected = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in combinations(sets, 2)]
    assert list(found.jaccard) == pytest.approx(expected)
    assert found.mean_jaccard == pytest.approx(sum(expected) / len(expected))
    for edge in Circuit.full(first.graph).edges:
        share = sum(str(edge) in names for names in sets) / len(sets)
        assert float(found.frequency[first.graph.find(edge)]) == pytest.approx(share)


def test_stability_needs_circuits_of_one_graph():
    one, other = (Circuit.full(Graph(GraphShape(2, 2, 2), Scope(level))) for level in ("block", "head"))
    with pytest.raises(GraphError, match="different graphs"):
        stability([one, one, other])
    with pytest.raises(SettingsError, match="at least two"):
        stability([one])
