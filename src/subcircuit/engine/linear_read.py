"""Readers' inputs in a circuit: masked sums over writers, and the gradients of these sums.

    read(r) = Σ_w  kept[w, r] · (value(w) − ablated(w))

The cost is one matrix product for all examples that share a mask. If nodes are distinguished by position, ``kept`` has a
column per reader and position, and each position of a reader uses its own column: one matrix product per position, over
that position's rows only, so the total work is the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.graph import Graph
from subcircuit.model.tokens import Tokens
from subcircuit.units import Unit
from subcircuit.units.gradients import widened


@dataclass(frozen=True)
class Stretch:
    """One unit in the order of computation, or a part of one: the writers that it reads and the rows where it writes.

    Args:
        n_read: number of writers that it reads, which are the first ones in order.
        readers: its columns in the graph without positions.
        writers: its rows; an empty slice for the logits.
    """

    unit: Unit
    n_read: int
    readers: slice
    writers: slice


def stretches(graph: Graph) -> Iterator[Stretch]:
    """The units of a graph without positions, from the first layer to the logits."""
    for index, unit in enumerate(graph.units):
        reader, n_read = graph.readers_in[index][0], graph.n_read(graph.readers_in[index][0])
        writer = min(graph.writers_in[index], default=0)
        for piece in unit.pieces:
            readers, writers = slice(reader, reader + len(piece.readers)), slice(writer, writer + len(piece.writers))
            yield Stretch(piece, n_read, readers, writers)
            reader, writer = readers.stop, writers.stop


@dataclass(frozen=True, eq=False)
class Together:
    """All positions of all examples, under one mask or one mask per example.

    Args:
        mask: one mask for all examples, or one per example.
        differences: value − ablated value of every writer, filled as units run.
    """

    mask: Float[Tensor, "#batch writer reader"]
    differences: Float[Tensor, "writer batch pos d_model"]

    def read(self, at: Stretch) -> Float[Tensor, "reader batch pos d_model"]:
        """Σ kept · (value − ablated) at the readers of a unit."""
        kept = self.mask[:, : at.n_read, at.readers].to(self.differences.dtype)
        read = kept.mT @ self._by_mask(self.differences[: at.n_read])
        return read.transpose(0, 1).reshape(-1, *self.differences.shape[1:])

    def add_at_mask(self, at: Stretch, at_readers: Float[Tensor, "reader batch pos d_model"], at_mask: Tensor) -> None:
        """Add the mask gradients of a unit's edges, computed from the gradients at its readers, to ``at_mask``."""
        gradients = widened(self._by_mask(self.differences[: at.n_read])) @ self._by_mask(at_readers).mT
        at_mask[:, : at.n_read, at.readers] += gradients

    def add_at_values(
        self,
        at: Stretch,
        at_readers: Float[Tensor, "reader batch pos d_model"],
        at_values: Float[Tensor, "writer batch pos d_model"],
    ) -> None:
        """Add the gradients that a unit's readers send to the values they read to ``at_values``."""
        self._by_mask(at_values[: at.n_read]).baddbmm_(self.mask[:, : at.n_read, at.readers], self._by_mask(at_readers))

    def _by_mask(self, x: Float[Tensor, "row batch pos d_model"]) -> Float[Tensor, "#batch row d_in"]:
        return x.view(len(x), len(self.mask), -1).transpose(0, 1)


@dataclass(frozen=True, eq=False)
class PositionByPosition:
    """Rows of each position under the columns of that position; the members are those of ``Together``.

    Args:
        mask: with the columns of all readers, each position by position.
        positions: index of each row's position in the graph.
        n_positions: number of positions of the graph.
    """

    mask: Float[Tensor, "#batch writer reader"]
    differences: Float[Tensor, "writer batch pos d_model"]
    positions: Int[Tensor, "batch pos"]
    n_positions: int

    def read(self, at: Stretch) -> Float[Tensor, "reader batch pos d_model"]:
        """Σ kept · (value − ablated) at the readers of a unit."""
        read = self.differences.new_zeros(at.readers.stop - at.readers.start, *self.differences.shape[1:])
        values = self.differences[: at.n_read].flatten(1, 2)
        for example, position, rows in self._groups:
            kept = self._kept(self.mask, at)[example, :, :, position].to(values.dtype)
            read.flatten(1, 2)[:, rows] = torch.einsum("wr,wnd->rnd", kept, values[:, rows])
        return read

    def add_at_mask(self, at: Stretch, at_readers: Float[Tensor, "reader batch pos d_model"], at_mask: Tensor) -> None:
        """Add the mask gradients of a unit's edges, computed from the gradients at its readers, to ``at_mask``."""
        values, gradients = self.differences[: at.n_read].flatten(1, 2), at_readers.flatten(1, 2)
        for example, position, rows in self._groups:
            at_edges = widened(values[:, rows].flatten(1)) @ gradients[:, rows].flatten(1).T
            self._kept(at_mask, at)[example, :, :, position] += at_edges

    def add_at_values(
        self,
        at: Stretch,
        at_readers: Float[Tensor, "reader batch pos d_model"],
        at_values: Float[Tensor, "writer batch pos d_model"],
    ) -> None:
        """Add the gradients that a unit's readers send to the values they read to ``at_values``."""
        gradients, values = at_readers.flatten(1, 2), at_values[: at.n_read].flatten(1, 2)
        for example, position, rows in self._groups:
            kept = self._kept(self.mask, at)[example, :, :, position]
            values[:, rows] += torch.einsum("wr,rnd->wnd", kept, gradients[:, rows])

    def _kept(self, mask: Float[Tensor, "#batch writer reader"], at: Stretch) -> Tensor:
        """The mask's part for a unit: [batch, writers that the unit reads, its readers, positions]."""
        return mask.unflatten(2, (-1, self.n_positions))[:, : at.n_read, at.readers]

    @cached_property
    def _groups(self) -> list[tuple[int, int, Int[Tensor, " row"]]]:
        """Rows that share a mask and a position, each with the mask's index and the position."""
        flat, groups = self.positions.flatten(), []
        owner = torch.arange(len(self.positions), device=flat.device).repeat_interleave(self.positions.shape[1])
        for example in range(len(self.mask)):
            mine = owner == example if len(self.mask) > 1 else torch.ones_like(owner, dtype=torch.bool)
            for position in range(self.n_positions):
                rows = (mine & (flat == position)).nonzero().flatten()
                groups += [(example, position, rows)] if len(rows) else []
        return groups


Sums: TypeAlias = Together | PositionByPosition


def sums(
    graph: Graph,
    mask: Float[Tensor, "#batch writer reader"],
    differences: Float[Tensor, "writer batch pos d_model"],
    tokens: Tokens,
) -> Sums:
    """The masked sums of a graph, with or without positions."""
    if not graph.shape.positions:
        return Together(mask, differences)
    assert tokens.positions is not None, "prompts of a graph with positions go through tasks.with_positions"
    return PositionByPosition(mask, differences, tokens.positions, len(graph.positions))
