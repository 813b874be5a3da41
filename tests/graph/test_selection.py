"""Selection equals its plain definition: sort all edges, or grow edge by edge from the logits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subcircuit.errors import GraphError, NumericalError, SettingsError
from subcircuit.graph import Circuit, Graph, GraphShape, Greedy, Logits, Scope, Threshold, TopN, select_edges
from tests.graph.strategies import graphs


@st.composite
def scored_graphs(draw: st.DrawFn):
    """A graph whose scores are often tied."""
    graph = draw(graphs(most_layers=2, positioned=True))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    levels = draw(st.sampled_from([1, 3, 1000]))
    scores = torch.randint(-levels, levels + 1, graph.edges.shape, generator=generator) / levels
    return graph, scores.masked_fill(~graph.edges, math.nan)


def ranked(graph, scores, by):
    """All edges, the largest first, ties by reader and then writer."""
    size = (lambda e: abs(float(scores[graph.find(e)]))) if by == "absolute" else (lambda e: float(scores[graph.find(e)]))
    edges = Circuit.full(graph).edges
    return sorted(edges, key=lambda e: (-size(e), graph.reader_index[e.reader], graph.find(e)[0]))


@pytest.mark.slow
@given(scored_graphs(), st.sampled_from(["signed", "absolute"]), st.floats(0, 1))
def test_the_largest_edges_are_taken(scored, by, share):
    graph, scores = scored
    n = int(share * graph.n_edges)
    circuit = select_edges(graph, scores, TopN(n, by))
    assert set(circuit.edges) == set(ranked(graph, scores, by)[:n])
    assert circuit.scores is not None
    assert torch.equal(circuit.scores.nan_to_num(9), scores.nan_to_num(9))


@given(
    scored_graphs(), st.sampled_from(["signed", "absolute"]), st.sampled_from([-0.5, 0.0, 0.25, 1 / 3, 1.0, math.inf, -math.inf])
)
def test_a_threshold_keeps_what_reaches_it(scored, by, least):
    graph, scores = scored
    kept = select_edges(graph, scores, Threshold(least, by)).kept
    sizes = scores.abs() if by == "absolute" else scores
    assert torch.equal(kept, graph.edges & (sizes >= torch.tensor(least)))


def opens(graph, reader):
    """The writers, with their positions, that are reached through a reader."""
    return {(writer, graph.positions[position]) for writer in graph.owners(reader) for position in graph.reached_from(reader)}


@pytest.mark.slow
@given(scored_graphs(), st.sampled_from(["signed", "absolute"]), st.floats(0, 0.3))
def test_greedy_takes_the_largest_edge_that_leads_on_to_the_logits(scored, by, share):
    graph, scores = scored
    n = int(share * graph.n_edges)
    order, taken, nodes = ranked(graph, scores, by), set(), set()
    for _ in range(n):
        edge = next(e for e in order if e not in taken and (isinstance(e.reader, Logits) or nodes & opens(graph, e.reader)))
        taken.add(edge)
        nodes.add((graph.find(edge)[0], edge.writer.position))
    circuit = select_edges(graph, scores, Greedy(n, by))
    assert set(circuit.edges) == taken
    assert torch.equal(circuit.to_logits(), circuit.kept)


GRAPH = Graph(GraphShape(1, 1, 1), Scope("head"))


@pytest.mark.parametrize("kind", [TopN, Greedy])
def test_more_edges_than_there_are(kind):
    with pytest.raises(
        SettingsError, match=f"the number of edges is {GRAPH.n_edges + 1}, and the graph has only {GRAPH.n_edges}"
    ):
        select_edges(GRAPH, torch.zeros(GRAPH.edges.shape), kind(GRAPH.n_edges + 1, "signed"))
    assert select_edges(GRAPH, torch.zeros(GRAPH.edges.shape), kind(GRAPH.n_edges, "signed")).n_edges == GRAPH.n_edges


def test_what_is_not_a_number_is_named_and_never_ranked():
    scores = torch.zeros(GRAPH.edges.shape)
    scores[GRAPH.find("a0.h0->m0")] = math.inf
    for selection in (TopN(1, "signed"), Greedy(1, "signed"), Threshold(0.0, "absolute")):
        with pytest.raises(NumericalError, match=r"a0\.h0->m0 is inf"):
            select_edges(GRAPH, scores, selection)
    with pytest.raises(GraphError, match="the scores have shape"):
        select_edges(GRAPH, scores[1:], TopN(1, "signed"))


@pytest.mark.parametrize("kind", [TopN, Greedy])
def test_settings_are_checked(kind):
    with pytest.raises(SettingsError, match="at least 0"):
        kind(-1, "signed")
    with pytest.raises(SettingsError, match="NaN"):
        Threshold(math.nan, "signed")
