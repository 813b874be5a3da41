"""Edges that join a circuit: the most promising ones that lie on a path from an embedding through it to the logits.

A cut edge does something only if its writer carries something and its reader is heard. So edges are taken by their
promised gain, the best first, where their reader is the logits or belongs to a node with a kept path there; a writer
that carries nothing yet is then given its own best edge, and so on back to a writer that carries something, an embedding
at last. Such a *chain* goes in whole or not at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.graph import Circuit, Embed, Graph
from subcircuit.graph.circuit import owners

Chain = tuple[tuple[int, int], ...]
"""Rows and columns of edges, from the one into the circuit back to the one out of a writer that carries something."""
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
        return tuple(tuple(product(owners(graph, reader), graph.reached_from(reader))) for reader in graph.readers)

    @cached_property
    def inputs(self) -> dict[Spot, tuple[int, ...]]:
        """The readers that change what a writer writes at a place."""
        found: dict[Spot, list[int]] = {}
        for column, spots in enumerate(self.feeds):
            for spot in spots:
                found.setdefault(spot, []).append(column)
        return {spot: tuple(columns) for spot, columns in found.items()}

    def carrying(self, kept: Bool[Tensor, "writer reader"]) -> set[Spot]:
        """Writers that write something else than their ablated value: embeddings, and what a kept path leads to from one."""
        n_places = len(self.graph.places)
        embeddings = [row for row, writer in enumerate(self.graph.writers) if isinstance(writer, Embed)]
        found: set[Spot] = set(product(embeddings, range(n_places)))
        for column in kept.any(0).nonzero().flatten().tolist():
            if any((row, column % n_places) in found for row in kept[:, column].nonzero().flatten().tolist()):
                found.update(self.feeds[column])
        return found

    def heard(self, kept: Bool[Tensor, "writer reader"]) -> set[int]:
        """Readers whose input changes the logits: those of the logits, and those of writers with a kept path there."""
        n_places = len(self.graph.places)
        found = set(range(len(self.graph.readers) - n_places, len(self.graph.readers)))
        for row, column in reversed(Circuit(self.graph, kept).to_logits().T.nonzero().flip(1).tolist()):
            found.update(self.inputs.get((row, column % n_places), ()))
        return found


def chains(wiring: Wiring, kept: Bool[Tensor, "writer reader"], gain: Float[Tensor, "writer reader"]) -> Iterator[Chain]:
    """Chains of cut edges that join a circuit, by the gain of their first edge, the best first; each builds on those before.

    Args:
        kept: the circuit.
        gain: what restoring each cut edge promises; edges of no positive gain join nothing.
    """
    graph, n_places = wiring.graph, len(wiring.graph.places)
    gain = gain.masked_fill(~graph.edges | kept, 0.0).clamp(min=0)
    carrying, heard = wiring.carrying(kept), wiring.heard(kept)
    taken: set[tuple[int, int]] = set()
    # by reader, then by writer: a stable sort leaves ties in the order of edges
    cells = gain.T.nonzero()
    order = gain.T[cells[:, 0], cells[:, 1]].sort(descending=True, stable=True).indices
    for column, row in cells[order].tolist():
        if column not in heard or (row, column) in taken:
            continue
        chain = _chain(wiring, carrying, gain, row, column)
        if chain is None:
            continue
        yield chain
        taken.update(chain)
        for w, r in chain:
            carrying.update(wiring.feeds[r])
            heard.update(wiring.inputs.get((w, r % n_places), ()))


def _chain(wiring: Wiring, carrying: set[Spot], gain: Float[Tensor, "writer reader"], row: int, column: int) -> Chain | None:
    """From an edge back to a writer that carries something; None where no edge of positive gain leads on."""
    n_places, chain = len(wiring.graph.places), [(row, column)]
    while (spot := (chain[-1][0], chain[-1][1] % n_places)) not in carrying:
        columns = wiring.inputs.get(spot, ())
        if not columns:
            return None
        best, at = gain[:, columns].T.flatten().max(0)
        if best <= 0:
            return None
        reader, writer = divmod(int(at), len(gain))
        chain.append((writer, columns[reader]))
    return tuple(chain)


def with_chains(kept: Bool[Tensor, "writer reader"], added: list[Chain]) -> Bool[Tensor, "writer reader"]:
    """The circuit with these chains."""
    more = kept.clone()
    for row, column in (edge for chain in added for edge in chain):
        more[row, column] = True
    return more
