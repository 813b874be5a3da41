"""Controls of a search: random circuits of the same size, and a model whose weights are permuted.

Faithfulness should be read beside that of random circuits. `random_circuit` draws edges uniformly. Of few edges among many
hardly any lie on a path from an embedding to the logits, so that its faithfulness is near 0 for a reason that has nothing
to do with the behaviour. `random_connected_circuit` grows: it adds *ears*, random walks backwards from an input of the
circuit along new edges to the circuit or an embedding, until there are as many edges as asked for. Every edge of it lies on
such a path. It is not uniform over connected circuits: late and well-connected nodes come more often, as they do in
circuits that searches find.

The reset model has the same numbers in other places (Conmy et al. 2023, arXiv 2304.14997, section 4): the entries of every
weight tensor are permuted among themselves. Norms, scales and the distribution of weights stay, what was learned does not:
a search that finds as good a circuit, or as much of a known one, in the reset model measures something other than what the
model learned.
"""

from dataclasses import replace
from functools import lru_cache
from itertools import product
from random import Random
from typing import TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.errors import SettingsError
from subcircuit.graph import Circuit, Graph
from subcircuit.model import Transformer, map_tensors

Ear: TypeAlias = list[tuple[int, int]]

_TRIES = 200
_RESTARTS = 20


def random_circuit(graph: Graph, n_edges: int, seed: int = 0) -> Circuit:
    """A circuit of so many edges, each set of edges equally likely.

    Raises:
        SettingsError: more edges than the graph has, or fewer than none.
    """
    _check_count(graph, n_edges)
    cells = graph.edges.flatten().nonzero().flatten()
    drawn = torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))[:n_edges]
    kept = torch.zeros_like(graph.edges).flatten()
    kept[cells[drawn]] = True
    return Circuit(graph, kept.view(graph.edges.shape))


def random_connected_circuit(graph: Graph, n_edges: int, seed: int = 0) -> Circuit:
    """A circuit of so many edges, all on paths from an embedding to the logits.

    Raises:
        SettingsError: more edges than the graph has, or no connected circuit of this size was found.
    """
    _check_count(graph, n_edges)
    random = Random(seed)
    for _ in range(_RESTARTS):
        kept = _grow(graph, n_edges, random)
        if kept is not None:
            return Circuit(graph, kept)
    raise SettingsError(f"no connected circuit with {n_edges} of {graph.n_edges} edges was found: choose another number of edges")


def _grow(graph: Graph, n_edges: int, random: Random) -> Bool[Tensor, "writer reader"] | None:
    kept, tries = torch.zeros_like(graph.edges), 0
    while (left := n_edges - int(kept.sum())) and tries < _TRIES:
        ear = random_ear(graph, kept, kept, random)
        if ear is None or len(ear) > left:
            tries += 1
            continue
        tries = 0
        for writer, reader in ear:
            kept[writer, reader] = True
    return None if left else kept


def random_ear(
    graph: Graph, kept: Bool[Tensor, "writer reader"], joined: Bool[Tensor, "writer reader"], random: Random
) -> Ear | None:
    """New edges that join a circuit at both ends, as (writer, reader) from the last to the first.

    Args:
        kept: the circuit's edges; none of them is taken.
        joined: those of them that lie on a path from an embedding to the logits, see `Circuit.prune`.

    Returns:
        None where the walk came to an input all of whose edges are kept; there may be other ears.
    """
    n_positions = len(graph.positions)
    live = joined.unflatten(1, (-1, n_positions)).any(1).tolist()
    starts = [
        index
        for index, mine in enumerate(_owners(graph))
        if index in graph.readers_in[-1] or any(live[writer][position] for writer, position in mine)
    ]
    reader, ear = random.choice(starts), []
    while True:
        free = (graph.edges[:, reader] & ~kept[:, reader]).nonzero().flatten().tolist()
        if not free:
            return None
        writer = random.choice(free)
        ear.append((writer, reader))
        at = reader % n_positions
        if live[writer][at] or writer < len(graph.embeddings):
            return ear
        reader = random.choice([index for index, mine in enumerate(_owners(graph)) if (writer, at) in mine])


@lru_cache(maxsize=4)
def _owners(graph: Graph) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each reader, the writers that it is an input of, each with the positions at which it is."""
    return tuple(tuple(product(graph.owners(reader), graph.reached_from(reader))) for reader in graph.readers)


def _check_count(graph: Graph, n_edges: int) -> None:
    if not 0 <= n_edges <= graph.n_edges:
        raise SettingsError(f"n_edges is {n_edges}, and the graph has only {graph.n_edges} edges")


@entry
def reset(model: Transformer, seed: int = 0) -> Transformer:
    """The model with the entries of each weight tensor permuted; tensors that are shared stay shared."""
    generator = torch.Generator().manual_seed(seed)
    done: dict[int, Tensor] = {}

    def permute(tensor: Tensor) -> Tensor:
        if id(tensor) not in done:
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            done[id(tensor)] = tensor.flatten()[order].view(tensor.shape)
        return done[id(tensor)]

    return replace(model, weights=map_tensors(model.weights, permute), name=f"{model.name}, reset", revision=None, origin=None)
