"""When edges come to lie on a path, against pruning every prefix."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subcircuit.graph import Circuit, Graph
from subcircuit.graph.paths import NEVER, joins
from tests.graph.strategies import graphs


def ranked(graph: Graph, seed: int, share: float) -> torch.Tensor:
    """Some of a graph's edges in random order, from 1."""
    generator = torch.Generator().manual_seed(seed)
    chosen = (graph.edges & (torch.rand(graph.edges.shape, generator=generator) < share)).nonzero()
    order = torch.randperm(len(chosen), generator=generator) + 1
    ranks = torch.full(graph.edges.shape, NEVER)
    ranks[chosen[:, 0], chosen[:, 1]] = order
    return ranks


@pytest.mark.slow
@given(graphs(positioned=True), st.integers(0, 1000), st.floats(0, 1))
def test_edges_join_when_pruning_the_prefix_leaves_them(graph: Graph, seed: int, share: float) -> None:
    ranks = ranked(graph, seed, share)
    joined = joins(graph, ranks)
    for length in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55):
        assert torch.equal(joined <= length, Circuit(graph, ranks <= length).prune().kept)
    assert torch.equal(joined < NEVER, Circuit(graph, ranks < NEVER).prune().kept)


@pytest.mark.slow
@given(graphs(positioned=True), st.integers(0, 1000), st.floats(0, 1))
def test_while_a_search_runs_a_path_to_the_logits_is_enough(graph: Graph, seed: int, share: float) -> None:
    ranks = ranked(graph, seed, share)
    joined = joins(graph, ranks, from_embedding=False)
    for length in (0, 1, 2, 5, 17, NEVER - 1):
        assert torch.equal(joined <= length, Circuit(graph, ranks <= length).to_logits())
