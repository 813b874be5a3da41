"""The computational graph: ordered writers and readers, and which writer can reach which reader.

An edge writer -> reader exists if the writer is computed before the reader. In sequential blocks the heads of a layer
feed its MLP; in parallel blocks (GPT-NeoX) they do not. With sandwich norms the heads of a layer are ``coupled``: they share
one root mean square, so wherever one of them acts, all do. The same holds for the neurons of an MLP.

If a scope distinguishes positions, there is a reader per position: per token role of the task, or per index of aligned
prompts. The residual stream is per position, so an edge joins a writer and a reader at the same position. A head moves
information from the positions of its key and value inputs to other positions. In a matrix of edges, a row is a writer at
all positions, and a column is a reader at one position. The column therefore gives the position of both ends of an edge.

Edges follow from a clock (when a writer writes, when a reader reads), so counting them needs no matrix. The matrix
[writer, reader] is built on first use at one byte per cell; above ``MOST_CELLS`` cells it is refused.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from subcircuit.errors import GraphError, UnknownNameError
from subcircuit.graph.scope import Scope
from subcircuit.graph.shape import GraphShape, differences
from subcircuit.model.config import TransformerConfig
from subcircuit.units import AttentionUnit, ExpertsUnit, LogitsUnit, MLPUnit, NeuronsUnit, Unit
from subcircuit.units.nodes import Edge, Embed, Node, Reader, Writer, at, bare, parse_edge, parse_reader, parse_writer, parted

# 64 million: scores of this size take half a gigabyte in float64
MOST_CELLS = 2**26


@dataclass(frozen=True)
class Graph:
    """The nodes and edges of a model at a scope. Topology only: equal shapes and scopes make equal graphs.

    Args:
        units: the model's units in order of computation, the logits last; by default the units that the scope defines.
    """

    shape: GraphShape
    scope: Scope
    units: tuple[Unit, ...] = ()

    def __post_init__(self) -> None:
        if not self.units:
            object.__setattr__(self, "units", units_of(self.shape, self.scope))

    def __repr__(self) -> str:
        return (
            f"Graph({self.shape.n_layers} layers of {self.shape.n_heads} heads, scope {self.scope_text}: {self.n_edges:,} edges)"
        )

    @staticmethod
    def of(config: TransformerConfig, scope: Scope | None = None, positions: tuple[str, ...] = ()) -> "Graph":
        """The graph of a model at a scope.

        Args:
            positions: if the scope distinguishes positions, the positions of the prompts (``positions_of``).

        Raises:
            GraphError: the scope names a part that the model does not have.
        """
        scope = Scope() if scope is None else scope
        return Graph(GraphShape.of(config, scope, positions), scope)

    def with_units(self, *units: Unit) -> "Graph":
        """The graph with the units of the same names replaced, by units of another level or of your own class.

        Raises:
            GraphError: the graph has no unit of that name, or its unit reads at a different clock.
        """
        given, mine = {unit.name: unit for unit in units}, {unit.name: unit.clock for unit in self.units}
        for name, unit in given.items():
            if mine.get(name) != unit.clock:
                raise GraphError(f"this graph has no unit {name} at clock {unit.clock}. Its units and their clocks: {mine}")
        return replace(self, units=tuple(given.get(unit.name, unit) for unit in self.units))

    @cached_property
    def from_elsewhere(self) -> dict[str, str]:
        """Levels that the scope does not express, by unit name: see ``with_units``."""
        told = zip(self.units, units_of(self.shape, self.scope), strict=True)
        return {unit.name: unit.level for unit, known in told if unit != known}

    @property
    def scope_text(self) -> str:
        """The scope as text, followed by the levels that it does not express."""
        return ", ".join([str(self.scope), *(f"{name}={level}" for name, level in self.from_elsewhere.items())])

    def unlike_model(self, config: TransformerConfig) -> str:
        """The differences between this graph and a model, in words: ``layers: 3 and 12``. Empty for a graph of the model."""
        return differences(self.shape, GraphShape.of(config, self.scope, self.shape.positions))

    def unlike(self, other: "Graph") -> str:
        """The differences between two graphs, in words. Empty for equal graphs."""
        scopes = "" if self.scope == other.scope else f"scope: {self.scope} and {other.scope}"
        return "; ".join(words for words in (scopes, differences(self.shape, other.shape)) if words)

    @cached_property
    def without_positions(self) -> "Graph":
        """The graph of the same nodes, each covering all positions."""
        if not self.shape.positions:
            return self
        return replace(self, shape=replace(self.shape, positions=(), ordered=False), scope=replace(self.scope, positions="all"))

    @cached_property
    def apart(self) -> "Graph":
        """The graph without positions in which every head has a query, a key and a value reader."""
        return replace(self.without_positions, units=tuple(unit.apart for unit in self.units))

    @cached_property
    def drawn(self) -> "Graph":
        """The graph without positions whose nodes are the boxes of a picture: each MLP is one node."""
        return replace(self.without_positions, units=tuple(unit.drawn for unit in self.units))

    @property
    def positions(self) -> tuple[str | None, ...]:
        """The positions of readers: column ``r`` of the graph without positions is columns ``r * n`` to ``r * n + n - 1`` of this one."""
        return self.shape.positions or (None,)

    @cached_property
    def embeddings(self) -> tuple[Embed, ...]:
        """The embedding's writers, which come first."""
        return (Embed("token"), Embed("pos")) if self.scope.split_embeddings else (Embed(),)

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        """Writers in order of computation."""
        return (*self.embeddings, *(writer for unit in self.units for writer in unit.writers))

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """Readers in order of computation, each position by position; ``logits`` last."""
        return tuple(at(reader, position) for unit in self.units for reader in unit.readers for position in self.positions)

    @cached_property
    def edges(self) -> Bool[Tensor, "writer reader"]:
        """Which writer is computed before which reader.

        Raises:
            GraphError: so many writers and readers that the matrix would not fit in memory.
        """
        self.check_size()
        return self._clocks[0][:, None] < self._clocks[1]

    def check_size(self) -> None:
        """Check that the matrix of edges fits in memory, before any computation.

        Raises:
            GraphError: the graph has too many writers and readers.
        """
        cells = len(self.writers) * len(self.readers)
        if cells > MOST_CELLS:
            raise GraphError(
                f"the graph has {len(self.writers):,} writers and {len(self.readers):,} readers with {self.n_edges:,} edges: its mask would have "
                f"{cells:,} cells, more than the limit of {MOST_CELLS:,}. Resolve fewer MLPs into neurons, "
                'for example --scope "qkv, m5=neuron", or positions=roles in place of each; `subcircuit neurons` ranks all neurons.'
            )

    @cached_property
    def _clocks(self) -> tuple[Int[Tensor, " writer"], Int[Tensor, " reader"]]:
        """The time at which each writer writes (ascending), and the time at which each reader reads."""
        written = [-1 for _ in self.embeddings] + [unit.clock for unit in self.units for _ in unit.writers]
        read = [unit.clock for unit in self.units for _ in range(len(unit.readers) * len(self.positions))]
        return torch.tensor(written), torch.tensor(read)

    def n_read(self, reader: int) -> int:
        """How many writers a reader reads; they are the first ones in order."""
        written, read = self._clocks
        return int(torch.searchsorted(written, read[reader]))

    @property
    def n_edges(self) -> int:
        """How many edges there are."""
        written, read = self._clocks
        return int(torch.searchsorted(written, read).sum())

    @cached_property
    def writer_index(self) -> dict[Writer, int]:
        """Row of each writer in an edge matrix."""
        return {writer: index for index, writer in enumerate(self.writers)}

    @cached_property
    def reader_index(self) -> dict[Reader, int]:
        """Column of each reader in an edge matrix."""
        return {reader: index for index, reader in enumerate(self.readers)}

    @cached_property
    def _writer_named(self) -> dict[str, Writer]:
        return {str(writer): writer for writer in self.writers}

    @cached_property
    def _reader_named(self) -> dict[str, Reader]:
        return {str(reader): reader for reader in self.readers}

    @cached_property
    def unit_index(self) -> dict[str, int]:
        """The index in ``units`` of the unit of each name."""
        return {unit.name: index for index, unit in enumerate(self.units)}

    @cached_property
    def unit_of(self) -> tuple[int, ...]:
        """The index in ``units`` of each reader's unit."""
        return tuple(index for index, readers in enumerate(self.readers_in) for _ in readers)

    @cached_property
    def unit_of_writer(self) -> tuple[int | None, ...]:
        """The index in ``units`` of each writer's unit; None for the embedding."""
        return (*(None for _ in self.embeddings), *(index for index, rows in enumerate(self.writers_in) for _ in rows))

    @cached_property
    def readers_in(self) -> tuple[tuple[int, ...], ...]:
        """The readers of each unit, in order of computation."""
        ends = list(accumulate((len(unit.readers) * len(self.positions) for unit in self.units), initial=0))
        return tuple(tuple(range(first, end)) for first, end in pairwise(ends))

    @cached_property
    def writers_in(self) -> tuple[tuple[int, ...], ...]:
        """The writers of each unit, in order of computation; none for the logits."""
        ends = list(accumulate((len(unit.writers) for unit in self.units), initial=len(self.embeddings)))
        return tuple(tuple(range(first, end)) for first, end in pairwise(ends))

    def _located(self, reader: Reader) -> tuple[int, int]:
        """The index of a reader's unit, and the reader's index within the unit."""
        column = self.reader_index[reader]
        unit = self.unit_of[column]
        return unit, (column - self.readers_in[unit][0]) // len(self.positions)

    def owners(self, reader: Reader) -> tuple[int, ...]:
        """The writers that a reader is an input of, without those that it reaches only through a shared norm; none for logits."""
        unit, index = self._located(reader)
        return tuple(self.writers_in[unit][writer] for writer in self.units[unit].feeds[index])

    def nodes_of(self, reader: Reader) -> tuple[Node, ...]:
        """The nodes at which an edge into a reader ends, at its position: its owners (several where heads share keys and values), or the logits."""
        return tuple(at(self.writers[owner], reader.position) for owner in self.owners(reader)) or (reader,)

    def writers_of(self, reader: Reader) -> tuple[int, ...]:
        """The writers whose output depends on this reader directly: a head, a group of heads, a block; none for logits."""
        unit, _ = self._located(reader)
        return self.writers_in[unit] if self.units[unit].coupled else self.owners(reader)

    def reached_from(self, reader: Reader) -> tuple[int, ...]:
        """The positions at which a reader's input changes writes: its own, and others through keys and values."""
        here, (unit, index) = self.positions.index(reader.position), self._located(reader)
        if self.units[unit].spreads[index]:
            return tuple(range(here if self.shape.ordered else 0, len(self.positions)))
        return (here,)

    def writer(self, name: str) -> Writer:
        """The writer of this name, at a position where the name says one.

        Raises:
            GraphError: the name is malformed. A well-formed name that the graph lacks is reported by ``find``.
        """
        whole, position = parted(name)
        writer = self._writer_named.get(whole)
        return parse_writer(name) if writer is None else at(writer, position)

    def reader(self, name: str) -> Reader:
        """The reader of this name.

        Raises:
            GraphError: as ``writer``.
        """
        return self._reader_named.get(name) or parse_reader(name)

    def find(self, edge: str | Edge) -> tuple[int, int]:
        """Row and column of an edge.

        Raises:
            GraphError: the name is malformed, or the writer is not computed before the reader.
            UnknownNameError: this graph has no such writer or reader.
        """
        if isinstance(edge, str):
            writer_name, arrow, reader_name = edge.partition("->")
            edge = Edge(self.writer(writer_name), self.reader(reader_name)) if arrow else parse_edge(edge)
        writer, reader = bare(edge.writer), edge.reader
        if writer not in self.writer_index:
            raise UnknownNameError("writer", str(edge.writer), [str(w) for w in self.writers])
        if reader not in self.reader_index:
            raise UnknownNameError("reader", str(reader), [str(r) for r in self.readers])
        if edge.writer.position not in (None, reader.position):
            raise GraphError(f"there is no edge {edge}: writer and reader of an edge are at the same position")
        row, column = self.writer_index[writer], self.reader_index[reader]
        if row >= self.n_read(column):
            raise GraphError(f"there is no edge {edge}: {edge.writer} is not computed before {reader}")
        return row, column

    def edge(self, row: int, column: int) -> Edge:
        """The edge in a row and column of the matrix."""
        reader = self.readers[column]
        return Edge(at(self.writers[row], reader.position), reader)


def units_of(shape: GraphShape, scope: Scope) -> tuple[Unit, ...]:
    """The units of a model of this shape at a scope, in order of computation."""
    units: list[Unit] = []
    for layer in range(shape.n_layers):
        units.append(_attention(shape, scope, layer))
        if shape.mlps:
            # in a parallel block both units read the same stream
            units.append(_mlp(shape, scope, layer, 2 * layer + (0 if shape.parallel else 1)))
    return (*units, LogitsUnit(shape.n_layers, 2 * shape.n_layers))


def _attention(shape: GraphShape, scope: Scope, layer: int) -> AttentionUnit:
    levels = [scope.of_head(layer, head) for head in range(shape.n_heads)]
    apart = tuple(head for head, level in enumerate(levels) if level == "qkv")
    grouped, block = scope.kv == "grouped", levels[0] == "block"
    heads = (shape.n_heads, shape.n_kv_heads, block, apart, grouped)
    return AttentionUnit(layer, 2 * layer, *heads, coupled=shape.coupled_heads)


def _mlp(shape: GraphShape, scope: Scope, layer: int, clock: int) -> Unit:
    match scope.of_mlp(layer):
        case "neuron":
            return NeuronsUnit(layer, clock, shape.neurons, coupled=shape.coupled_heads)
        case "expert" if layer in shape.mixtures:
            return ExpertsUnit(layer, clock, shape.experts, shape.shared_expert)
        case _:
            return MLPUnit(layer, clock)
