"""Circuits of one model at two levels: refining and coarsening are each other's counterparts."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import GraphError
from subcircuit.graph import Circuit, Graph, GraphShape, Scope, coarsen, resolve

SHAPE = GraphShape(3, 4, 2, neurons=2)
MIXED = GraphShape(2, 1, 1, mixtures=(1,), experts=2, shared_expert=True)
CHAINS = [("block", "head", "qkv", "neuron"), ("a1=block", "a1=block, m1=neuron", "qkv, m1=neuron"), ("head", "head, a1.h2=qkv")]
POSITIONS = ("IO", "S1")


@st.composite
def nested(draw: st.DrawFn) -> tuple[Graph, Graph]:
    """A coarser and a finer graph of one model."""
    shape, chain = draw(st.sampled_from([*((SHAPE, chain) for chain in CHAINS), (MIXED, ("block", "head", "expert"))]))
    first = draw(st.integers(0, len(chain) - 2))
    scopes = [Scope.named(chain[first]), Scope.named(chain[draw(st.integers(first + 1, len(chain) - 1))])]
    # neither, the finer one or both have nodes at roles
    positioned = draw(st.integers(0, 2))
    fine, coarse = (
        Graph(replace(shape, positions=POSITIONS), replace(scope, positions="roles")) if i < positioned else Graph(shape, scope)
        for i, scope in enumerate(reversed(scopes))
    )
    return coarse, fine


def random_circuit(graph: Graph, seed: int) -> Circuit:
    generator = torch.Generator().manual_seed(seed)
    return Circuit(graph, graph.edges & (torch.rand(graph.edges.shape, generator=generator) < 0.2))


def is_part(name: str, whole: str) -> bool:
    """By the names alone: m5.n3 of m5, a5.h3<q> of a5.h3 and of a5, m5@S2 of m5."""
    (name, _, position), (whole, _, at) = name.partition("@"), whole.partition("@")
    return at in ("", position) and (name == whole or any(name.startswith(whole + mark) for mark in (".", "<")))


@pytest.mark.slow
@settings(max_examples=25)
@given(nested(), st.integers(0, 2**20))
def test_refined_are_exactly_the_edges_whose_ends_are_parts_of_a_kept_edge_s_ends(graphs: tuple[Graph, Graph], seed: int) -> None:
    coarse, fine = graphs
    circuit = random_circuit(coarse, seed)
    wholes = [(str(edge.writer), str(edge.reader)) for edge in circuit.edges]
    ends = [(str(edge.writer), str(edge.reader), str(edge)) for edge in Circuit.full(fine).edges]
    expected = [name for writer, reader, name in ends if any(is_part(writer, w) and is_part(reader, r) for w, r in wholes)]
    assert resolve(circuit, fine).names == sorted(expected)
    assert coarsen(resolve(circuit, fine), coarse).kept.equal(circuit.kept)


@settings(max_examples=10)
@given(nested(), st.integers(0, 2**20))
def test_coarsened_scores_are_the_largest_of_the_kept_parts(graphs: tuple[Graph, Graph], seed: int) -> None:
    coarse, fine = graphs
    kept = random_circuit(fine, seed).kept
    scores = torch.randn(kept.shape, generator=torch.Generator().manual_seed(seed + 1))
    whole = coarsen(Circuit(fine, kept, scores), coarse)
    edges = [(str(e.writer), str(e.reader), abs(float(scores[fine.find(e)]))) for e in Circuit(fine, kept).edges]
    for edge in Circuit.full(coarse).edges:
        ends = str(edge.writer), str(edge.reader)
        parts = [score for writer, reader, score in edges if is_part(writer, ends[0]) and is_part(reader, ends[1])]
        at = coarse.find(edge)
        assert bool(whole.kept[at]) == bool(parts)
        assert whole.scores is not None
        assert float(whole.scores[at]) == pytest.approx(max(parts, default=0.0))


def test_a_group_s_reader_is_part_of_the_inputs_of_all_its_heads() -> None:
    grouped, heads = Graph(SHAPE, Scope.named("qkv, kv=grouped")), Graph(SHAPE, Scope("head"))
    whole = coarsen(Circuit.of_edges(grouped, ["a0.h0->a1.h1<k>"]), heads)
    assert whole.names == ["a0.h0->a1.h2", "a0.h0->a1.h3"]
    assert resolve(Circuit.of_edges(heads, ["m0->a1.h0"]), grouped).names == ["m0->a1.h0<k>", "m0->a1.h0<q>", "m0->a1.h0<v>"]


def test_what_is_no_refinement_is_refused() -> None:
    with pytest.raises(GraphError, match="no node of the other graph contains"):
        resolve(random_circuit(Graph(SHAPE, Scope("head")), 1), Graph(SHAPE, Scope("block")))


def test_a_group_is_part_of_itself_and_of_no_group_of_a_head_s_number() -> None:
    # group 0 is of heads 0 and 1, group 1 of heads 2 and 3
    neurons, grouped = Graph(SHAPE, Scope.named("qkv, m0=neuron", "grouped")), Graph(SHAPE, Scope.named("qkv", "grouped"))
    circuit = Circuit.of_edges(neurons, ["a0.h0->a1.h0<k>", "embed->a1.h1<v>"])
    assert coarsen(circuit, grouped).names == circuit.names
    assert resolve(coarsen(circuit, grouped), neurons).names == circuit.names
    by_head = Graph(SHAPE, Scope.named("qkv"))
    assert coarsen(Circuit.of_edges(by_head, ["a0.h0->a1.h1<k>"]), grouped).names == ["a0.h0->a1.h0<k>"]
