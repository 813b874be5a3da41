"""Edges that join a circuit: the most promising ones that lie on a path from an embedding through it to the logits.

A cut edge does something only if its writer carries something and its reader is heard. So edges are taken by their
promised gain, the best first, where their reader is the logits or belongs to a node with a kept path there; a writer
that carries nothing yet is then given its own best edge, and so on back to a writer that carries something, an embedding
at last. Such a *chain* goes in whole or not at all.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from itertools import product

from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.graph import Graph
from subcircuit.graph.circuit import inputs_of

Edge = tuple[int, int]
"""A row and a column."""
Chain = tuple[Edge, ...]
"""Edges, from the one into the circuit back to the one out of a writer that carries something."""
Spot = tuple[int, int]
"""A writer and a place."""


@dataclass(frozen=True)
class Wiring:
    """Which readers a writer's value depends on, and the other way round, at each place.

    Args:
        graph: the graph.
    """

    graph: Graph

    @cached_property
    def feeds(self) -> tuple[tuple[Spot, ...], ...]:
        """The writers and places that each reader's input changes."""
        graph = self.graph
        return tuple(tuple(product(graph.owners(reader), graph.reached_from(reader))) for reader in graph.readers)

    @cached_property
    def inputs(self) -> dict[Spot, tuple[int, ...]]:
        """The readers that change what a writer writes at a place."""
        return inputs_of(self.graph)

    def carrying(self, kept: Bool[Tensor, "writer reader"]) -> set[Spot]:
        """Writers of a pruned circuit that write something else than their ablated value: embeddings, and those that read."""
        embeddings = list(range(len(self.graph.embeddings)))
        fed = (spot for column in kept.any(0).nonzero().flatten().tolist() for spot in self.feeds[column])
        return {*product(embeddings, range(len(self.graph.places))), *fed}

    def heard(self, kept: Bool[Tensor, "writer reader"]) -> set[int]:
        """Readers of a pruned circuit whose input changes the logits: those of the logits, and of writers that are read."""
        n_places, n_readers = len(self.graph.places), len(self.graph.readers)
        spots = ((row, column % n_places) for row, column in kept.nonzero().tolist())
        return {*range(n_readers - n_places, n_readers), *(reader for spot in spots for reader in self.inputs.get(spot, ()))}


def chains(wiring: Wiring, kept: Bool[Tensor, "writer reader"], gain: Float[Tensor, "writer reader"]) -> Iterator[Chain]:
    """Chains of cut edges that join a circuit: at each time the one whose first edge has the largest gain of all that can join.

    Args:
        kept: the circuit, pruned: each of its edges lies on a path.
        gain: what restoring each cut edge promises; edges of no positive gain join nothing.
    """
    graph, n_places = wiring.graph, len(wiring.graph.places)
    gain = gain.masked_fill(~graph.edges | kept, 0.0).clamp(min=0)
    carrying, heard, taken = wiring.carrying(kept), set[int](), set[Edge]()
    waiting, stuck = list[tuple[float, int, int]](), dict[Spot, list[tuple[float, int, int]]]()

    def hear(readers: Iterable[int]) -> None:
        for column in {*readers} - heard:
            heard.add(column)
            for row in gain[:, column].nonzero().flatten().tolist():
                heappush(waiting, (-float(gain[row, column]), column, row))

    def carry(spots: Iterable[Spot]) -> None:
        for spot in {*spots} - carrying:
            carrying.add(spot)
            for edge in stuck.pop(spot, ()):
                heappush(waiting, edge)

    hear(wiring.heard(kept))
    while waiting:
        edge = _, column, row = heappop(waiting)
        if (row, column) in taken:
            continue
        chain = _chain(wiring, carrying, gain, row, column)
        spots = [(w, r % n_places) for w, r in chain]
        if spots[-1] not in carrying:
            # it waits for one of its writers to carry something
            for spot in spots:
                stuck.setdefault(spot, []).append(edge)
            continue
        yield chain
        taken.update(chain)
        for (_, r), spot in zip(chain, spots, strict=True):
            carry(wiring.feeds[r])
            hear(wiring.inputs.get(spot, ()))


def _chain(wiring: Wiring, carrying: set[Spot], gain: Float[Tensor, "writer reader"], row: int, column: int) -> Chain:
    """From an edge back to a writer that carries something, or to one into which no edge of positive gain leads."""
    n_places, chain = len(wiring.graph.places), [(row, column)]
    while (spot := (chain[-1][0], chain[-1][1] % n_places)) not in carrying:
        columns = wiring.inputs.get(spot, ())
        best, at = gain[:, columns].T.flatten().max(0) if columns else (0, 0)
        if best <= 0:
            break
        reader, writer = divmod(int(at), len(gain))
        chain.append((writer, columns[reader]))
    return tuple(chain)


def with_chains(kept: Bool[Tensor, "writer reader"], added: list[Chain]) -> Bool[Tensor, "writer reader"]:
    """The circuit with these chains."""
    more = kept.clone()
    for row, column in (edge for chain in added for edge in chain):
        more[row, column] = True
    return more
