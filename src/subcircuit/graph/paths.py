"""The prefix at which each edge first lies on a path, when a circuit grows edge by edge in a given order.

    joins(w -> r) = max(from(w), rank(w -> r), to(r))
    from(w) = min over edges into w of max(from, rank), 0 for embeddings      the smallest prefix that connects w to an embedding
    to(r)   = min over edges out of what r feeds of max(rank, to), 0 for logits          ... that connects r to the logits

The edges with ``joins <= n`` are the edges that `Circuit.prune` keeps of the first n. Cost: one pass over the readers in
each direction, instead of one `prune` per prefix.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from subcircuit.graph.circuit import reached
from subcircuit.graph.graph import Graph

# the rank of an edge that is in no prefix
NEVER = torch.iinfo(torch.int64).max


def joins(graph: Graph, ranks: Int[Tensor, "writer reader"], *, from_embedding: bool = True) -> Int[Tensor, "writer reader"]:
    """The length of the first prefix in which each edge lies on a path from an embedding to the logits.

    Args:
        ranks: place of each edge in the order, from 1; `NEVER` for edges outside the order.
        from_embedding: whether paths must begin at an embedding; False while a search has not decided the upstream edges.

    Returns:
        A matrix of prefix lengths; `NEVER` for edges that no prefix connects.
    """
    # readers as rows, so that each is contiguous
    by_reader = ranks.T.contiguous()
    return torch.maximum(_from(graph, by_reader, from_embedding), _to(graph, by_reader)).T


def _from(graph: Graph, ranks: Int[Tensor, "reader writer"], from_embedding: bool) -> Int[Tensor, "reader writer"]:
    """Per edge, the shortest prefix that holds it and a path to it."""
    n_positions = len(graph.positions)
    begins = torch.tensor([unit is None or not from_embedding for unit in graph.unit_of_writer])
    since = torch.where(begins, 0, NEVER)[:, None].repeat(1, n_positions)
    found = torch.full_like(ranks, NEVER)
    for column in (ranks < NEVER).any(1).nonzero().flatten().tolist():
        found[column] = ranks[column].maximum(since[:, column % n_positions])
        fed = reached(graph, graph.readers[column])
        since[fed] = since[fed].minimum(found[column].min())
    return found


def _to(graph: Graph, ranks: Int[Tensor, "reader writer"]) -> Int[Tensor, "reader writer"]:
    """Per edge, the shortest prefix that holds it and a path from it to the logits."""
    n_positions = len(graph.positions)
    since = torch.full((len(graph.writers), n_positions), NEVER)
    found = torch.full_like(ranks, NEVER)
    for column in reversed((ranks < NEVER).any(1).nonzero().flatten().tolist()):
        reader = graph.readers[column]
        leads = torch.tensor(0) if column in graph.readers_in[-1] else since[reached(graph, reader)].min()
        found[column] = ranks[column].maximum(leads)
        here = since[:, column % n_positions]
        since[:, column % n_positions] = here.minimum(found[column])
    return found
