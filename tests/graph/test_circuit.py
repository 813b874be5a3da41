"""Circuits as sets of edges, against sets of names and networkx."""

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from subcircuit.errors import GraphError
from subcircuit.graph import (
    MLP,
    Attention,
    Circuit,
    Embed,
    Expert,
    Graph,
    GraphShape,
    Head,
    HeadInput,
    Logits,
    Neuron,
    Reader,
    RouterInput,
    Scope,
)
from subcircuit.units.nodes import at, bare
from tests.graph.strategies import circuits, graphs


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Circuit, Circuit]:
    graph = draw(graphs(positioned=True))
    return draw(circuits(graph)), draw(circuits(graph))


@pytest.mark.slow
@given(pairs())
def test_operations_are_those_of_sets(two: tuple[Circuit, Circuit]) -> None:
    left, right = two
    a, b = set(left.names), set(right.names)
    assert len(a) == left.n_edges == len(left.edges)
    assert left.names == sorted(a)
    assert set(left.union(right).names) == a | b
    assert set(left.difference(right).names) == a - b
    assert set(left.select(right.names).names) == a & b
    comparison = left.compare(right)
    assert set(comparison.shared.names) == a & b
    assert (set(comparison.only_left.names), set(comparison.only_right.names)) == (a - b, b - a)
    assert comparison.jaccard == (len(a & b) / len(a | b) if a | b else 1.0)
    assert Circuit.of_edges(left.graph, left.names) == left
    assert Circuit.of_edges(left.graph, left.edges) == left


def heads_it_feeds(graph: Graph, reader: Reader) -> list[str]:
    """The writers to which a reader leads, by name, from the rules as they are told in the documentation."""
    match reader:
        case Logits():
            return []
        case MLP() | Attention() | Expert():
            return [str(reader)]
        case RouterInput(layer):
            return [f"m{layer}.e{e}" for e in range(graph.shape.experts)]
        case Neuron(layer):
            return [f"m{layer}.n{n}" for n in range(graph.shape.neurons)] if graph.shape.coupled_heads else [str(reader)]
        case HeadInput(layer, head, part):
            group = graph.shape.n_heads // graph.shape.n_kv_heads
            shared = graph.scope.kv == "grouped" and part in ("k", "v")
            heads = range(graph.shape.n_heads)
            if not graph.shape.coupled_heads:
                heads = [h for h in heads if (h // group if shared else h) == head]
                heads = [h for h in heads if part is None or graph.scope.of_head(layer, h) == "qkv"]
            return [str(Head(layer, h)) for h in heads]
        case _:
            raise AssertionError(reader)


def where_it_leads(graph: Graph, reader: Reader) -> list[str]:
    """The writers to which a reader leads, each at the positions at which it does, by name."""
    positions, names = graph.shape.positions, heads_it_feeds(graph, bare(reader))
    if reader.position is None:
        return names
    queries_attend = isinstance(reader, Attention) or (isinstance(reader, HeadInput) and reader.part != "q")
    after = positions[positions.index(reader.position) :] if graph.shape.ordered else positions
    return [f"{name}@{position}" for name in names for position in (after if queries_attend else [reader.position])]


def flow(circuit: Circuit) -> nx.DiGraph:
    """Kept edges writer → reader, and each reader → the writers that it is an input of."""
    graph = nx.DiGraph()
    graph.add_edges_from((("w", str(edge.writer)), ("r", str(edge.reader))) for edge in circuit.edges)
    for reader in circuit.graph.readers:
        graph.add_edges_from((("r", str(reader)), ("w", name)) for name in where_it_leads(circuit.graph, reader))
    graph.add_nodes_from(
        ("w", str(at(writer, position))) for writer in circuit.graph.writers for position in circuit.graph.positions
    )
    graph.add_nodes_from(("r", str(Logits(position=position))) for position in circuit.graph.positions)
    return graph


@pytest.mark.slow
@given(circuits(positioned=True))
def test_pruning_keeps_the_edges_on_a_path_from_embedding_to_logits(circuit: Circuit) -> None:
    graph = flow(circuit)
    writers, positions = circuit.graph.writers, circuit.graph.positions
    starts = [("w", str(at(writer, position))) for writer in writers for position in positions if isinstance(writer, Embed)]
    reached = set(starts).union(*(nx.descendants(graph, start) for start in starts))
    ends = {("r", str(Logits(position=position))) for position in positions}
    leading = ends.union(*(nx.ancestors(graph, end) for end in ends))
    on_a_path = {str(edge) for edge in circuit.edges if ("w", str(edge.writer)) in reached and ("r", str(edge.reader)) in leading}
    leading_there = {str(edge) for edge in circuit.edges if ("r", str(edge.reader)) in leading}
    pruned = circuit.prune()
    assert set(pruned.names) == on_a_path
    assert pruned.prune() == pruned
    assert set(Circuit(circuit.graph, circuit.to_logits()).names) == leading_there


@pytest.mark.slow
@given(graphs(positioned=True))
def test_the_model_itself_has_nothing_to_prune(graph: Graph) -> None:
    assert Circuit.full(graph).prune() == Circuit.full(graph)
    assert Circuit.empty(graph).n_edges == 0
    assert len(Circuit.full(graph).nodes) == (len(graph.writers) + 1) * len(graph.positions)


@given(circuits(positioned=True))
def test_nodes_are_those_that_edges_touch(circuit: Circuit) -> None:
    nodes = [str(node) for node in circuit.nodes]
    everything = [str(at(node, position)) for node in (*circuit.graph.writers, Logits()) for position in circuit.graph.positions]
    assert nodes == [name for name in everything if name in set(nodes)]
    assert {str(edge.writer) for edge in circuit.edges} <= set(nodes)
    for position in circuit.graph.positions:
        assert (str(Logits(position=position)) in nodes) == any(
            edge.reader == Logits(position=position) for edge in circuit.edges
        )


def test_a_circuit_of_a_handful_of_edges() -> None:
    graph = Graph(GraphShape(2, 2, 2), Scope())
    circuit = Circuit.of_edges(graph, ["embed->a0.h1<v>", "a0.h1->a1.h0<q>", "a1.h0->logits", "embed->m1"])
    assert [str(node) for node in circuit.nodes] == ["embed", "a0.h1", "a1.h0", "m1", "logits"]
    assert circuit.prune().names == ["a0.h1->a1.h0<q>", "a1.h0->logits", "embed->a0.h1<v>"]
    assert [str(edge) for edge in circuit.edges] == ["embed->a0.h1<v>", "a0.h1->a1.h0<q>", "embed->m1", "a1.h0->logits"]
    assert "4 of" in repr(circuit)


def test_arguments_are_left_alone() -> None:
    graph = Graph(GraphShape(2, 2, 2), Scope())
    full, kept = Circuit.full(graph), graph.edges.clone()
    full.difference(full)
    full.union(Circuit.empty(graph))
    full.prune()
    assert torch.equal(full.kept, kept)
    assert torch.equal(graph.edges, kept)


def test_equality_sees_scores_with_nan_and_infinity() -> None:
    graph = Graph(GraphShape(1, 1, 1), Scope())
    scores = torch.full(graph.edges.shape, float("nan"))
    scores[0, -1], other = 1.0, torch.full(graph.edges.shape, float("nan"))
    assert Circuit(graph, graph.edges, scores) == Circuit(graph, graph.edges, scores.clone())
    assert Circuit(graph, graph.edges, scores) != Circuit(graph, graph.edges, other)
    assert Circuit(graph, graph.edges, scores) != Circuit(graph, graph.edges)
    assert hash(Circuit(graph, graph.edges, scores)) == hash(Circuit(graph, graph.edges, other))


def test_what_does_not_fit_is_refused() -> None:
    graph, larger = Graph(GraphShape(1, 2, 2), Scope()), Graph(GraphShape(2, 2, 2), Scope())
    with pytest.raises(GraphError, match="different graphs"):
        Circuit.full(graph).union(Circuit.full(larger))
    with pytest.raises(GraphError, match="the mask has shape"):
        Circuit(graph, larger.edges)
    with pytest.raises(GraphError, match="does not exist"):
        Circuit(graph, torch.ones_like(graph.edges))
    # the shape check of the test run may see it first
    with pytest.raises((GraphError, TypeCheckError), match="scores"):
        Circuit(graph, graph.edges, torch.zeros(larger.edges.shape))
