"""The computational graph: ordered writers and readers, and which writer can reach which reader.

An edge writer -> reader exists when the writer is computed before the reader. In sequential blocks the heads of a
layer feed its MLP; in parallel blocks (GPT-NeoX) they do not. With sandwich norms the heads of a layer share one
root mean square, so each of them acts wherever one of them acts: they are ``coupled``. So are the neurons of an MLP.

Where a scope tells positions apart, every reader is one for each place: a token role of the task, or a position of prompts
that line up. The residual stream is per position, so an edge joins a writer and a reader at the same place; a head carries
what its key and value inputs read at one place to what it writes at others. Rows of a matrix of edges are the writers, each
at all places; columns are the readers place by place, so that the column of an edge says where both of its ends are.

Edges follow from a clock (when a writer has written, when a reader reads), so counting them takes no matrix. The matrix
[writer, reader] of a graph is made when asked for, a byte a cell; beyond ``MOST_CELLS`` of them it is refused.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from subcircuit.errors import GraphError, UnknownNameError
from subcircuit.graph.nodes import (
    MLP,
    Attention,
    Edge,
    Embed,
    Expert,
    Head,
    HeadInput,
    HeadPart,
    Logits,
    Neuron,
    Reader,
    RouterInput,
    Writer,
    at,
    bare,
    parse_edge,
)
from subcircuit.graph.scope import Scope
from subcircuit.graph.shape import GraphShape, differences
from subcircuit.model.config import TransformerConfig

Unit: TypeAlias = Attention | MLP | Logits

# 64 million: scores of this size take half a gigabyte in float64
MOST_CELLS = 2**26


@dataclass(frozen=True)
class Graph:
    """The nodes and edges of a model at a scope. Topology only: equal shapes and scopes make equal graphs."""

    shape: GraphShape
    scope: Scope

    def __repr__(self) -> str:
        return f"Graph({self.shape.n_layers} layers of {self.shape.n_heads} heads, scope {self.scope}: {self.n_edges:,} edges)"

    @staticmethod
    def of(config: TransformerConfig, scope: Scope | None = None, places: tuple[str, ...] = ()) -> "Graph":
        """The graph of a model.

        Args:
            places: where the scope tells positions apart, those of the prompts (``places_of``).

        Raises:
            GraphError: the scope asks for something that the model does not have.
        """
        scope = Scope() if scope is None else scope
        return Graph(GraphShape.of(config, scope, places), scope)

    def is_of(self, config: TransformerConfig) -> bool:
        """Whether this is a graph of a model."""
        return not self.unlike_model(config)

    def unlike_model(self, config: TransformerConfig) -> str:
        """What tells this graph apart from a model's, in words: ``layers: 3 and 12``. Empty for a graph of the model."""
        return differences(self.shape, GraphShape.of(config, self.scope, self.shape.places))

    def unlike(self, other: "Graph") -> str:
        """What tells two graphs apart, in words. Empty for equal graphs."""
        scopes = "" if self.scope == other.scope else f"scope: {self.scope} and {other.scope}"
        return "; ".join(words for words in (scopes, differences(self.shape, other.shape)) if words)

    @cached_property
    def unplaced(self) -> "Graph":
        """The graph of the same nodes, each one at all positions."""
        if not self.shape.places:
            return self
        return Graph(replace(self.shape, places=(), ordered=False), replace(self.scope, positions="all"))

    @property
    def places(self) -> tuple[str | None, ...]:
        """The places of readers: column ``r`` of the unplaced graph is columns ``r * n`` to ``r * n + n - 1`` of this one."""
        return self.shape.places or (None,)

    def reached_from(self, reader: Reader) -> tuple[int, ...]:
        """The places at which what a reader reads at its own changes what is written: elsewhere too through keys and values."""
        here = self.places.index(reader.place)
        if isinstance(reader, Attention) or (isinstance(reader, HeadInput) and reader.part != "q"):
            return tuple(range(here if self.shape.ordered else 0, len(self.places)))
        return (here,)

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        """Writers in order of computation."""
        writers: list[Writer] = [Embed("token"), Embed("pos")] if self.scope.split_embeddings else [Embed()]
        for layer in range(self.shape.n_layers):
            writers += self._attention_writers(layer)
            writers += self._mlp_writers(layer)
        return tuple(writers)

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """Readers in order of computation, each place by place; ``logits`` last.

        Per layer: heads with a single input, queries, keys, values of the others, the MLP, its neurons, or its router and experts.
        """
        if self.shape.places:
            return tuple(at(reader, place) for reader in self.unplaced.readers for place in self.places)
        readers: list[Reader] = []
        for layer in range(self.shape.n_layers):
            readers += self._attention_readers(layer)
            readers += [RouterInput(layer)] if self.has_experts(layer) else []
            readers += self._mlp_writers(layer)
        return (*readers, Logits())

    def _attention_writers(self, layer: int) -> list[Writer]:
        if self.is_block(layer):
            return [Attention(layer)]
        return [Head(layer, head) for head in range(self.shape.n_heads)]

    def _mlp_writers(self, layer: int) -> "list[MLP | Neuron | Expert]":
        """What an MLP writes, each part of it also a reader."""
        if not self.shape.mlps:
            return []
        if self.has_experts(layer):
            shared = [Expert(layer, None)] if self.shape.shared_expert else []
            return [*(Expert(layer, e) for e in range(self.shape.experts)), *shared]
        return [Neuron(layer, n) for n in range(self.shape.neurons)] if self.has_neurons(layer) else [MLP(layer)]

    def _attention_readers(self, layer: int) -> list[Reader]:
        if self.is_block(layer):
            return [Attention(layer)]
        heads = range(self.shape.n_heads)
        apart = [head for head in heads if self.scope.of_head(layer, head) == "qkv"]
        readers: list[Reader] = [HeadInput(layer, head) for head in heads if head not in apart]
        readers += [HeadInput(layer, head, "q") for head in apart]
        # a key and value reader of a group is there for those of its heads that are resolved
        shared = sorted({self._stored(head) for head in apart}) if self.scope.kv == "grouped" else apart
        return readers + [HeadInput(layer, head, part) for part in ("k", "v") for head in shared]

    def _stored(self, head: int) -> int:
        """The key/value head that a query head uses."""
        return head * self.shape.n_kv_heads // self.shape.n_heads

    def is_block(self, layer: int) -> bool:
        """Whether a layer's attention is one node."""
        return self._blocks[layer]

    @cached_property
    def _blocks(self) -> tuple[bool, ...]:
        return tuple(self.scope.of_head(layer, 0) == "block" for layer in range(self.shape.n_layers))

    def has_neurons(self, layer: int) -> bool:
        """Whether a layer's MLP is resolved into neurons."""
        return self._resolved_mlps[layer]

    @cached_property
    def _resolved_mlps(self) -> tuple[bool, ...]:
        return tuple(self.shape.mlps and self.scope.of_mlp(layer) == "neuron" for layer in range(self.shape.n_layers))

    def has_experts(self, layer: int) -> bool:
        """Whether a layer's MLP is a mixture that is resolved into its experts."""
        return self._resolved_mixtures[layer]

    @cached_property
    def _resolved_mixtures(self) -> tuple[bool, ...]:
        layers = range(self.shape.n_layers)
        return tuple(layer in self.shape.mixtures and self.scope.of_mlp(layer) == "expert" for layer in layers)

    @cached_property
    def edges(self) -> Bool[Tensor, "writer reader"]:
        """Which writer is computed before which reader.

        Raises:
            GraphError: so many writers and readers that the matrix would not fit in memory.
        """
        self.check_size()
        return self._clocks[0][:, None] < self._clocks[1]

    def check_size(self) -> None:
        """The matrix of edges fits in memory; to be asked before anything is run.

        Raises:
            GraphError: so many writers and readers that it does not.
        """
        cells = len(self.writers) * len(self.readers)
        if cells > MOST_CELLS:
            raise GraphError(
                f"{len(self.writers):,} writers and {len(self.readers):,} readers have {self.n_edges:,} edges, too many to tell "
                f"apart: {cells:,} cells, at most {MOST_CELLS:,}. Resolve fewer MLPs into neurons, "
                'for example --scope "qkv, m5=neuron", or positions=roles in place of each; `subcircuit neurons` ranks all neurons.'
            )

    @cached_property
    def _clocks(self) -> tuple[Int[Tensor, " writer"], Int[Tensor, " reader"]]:
        """When each writer has written, which never falls, and when each reader reads."""
        return torch.tensor([self._written(w) for w in self.writers]), torch.tensor([self._read(r) for r in self.readers])

    def n_read(self, reader: int) -> int:
        """How many writers a reader reads: the first so many."""
        written, read = self._clocks
        return int(torch.searchsorted(written, read[reader]))

    def _written(self, writer: Writer) -> int:
        """A clock that ticks twice a layer: when a writer's output joins the stream."""
        match writer:
            case Embed():
                return 0
            case Head(layer) | Attention(layer) if not self.shape.parallel:
                return 2 * layer + 1
            case Head(layer) | Attention(layer) | MLP(layer) | Neuron(layer) | Expert(layer):
                return 2 * layer + 2

    def _read(self, reader: Reader) -> int:
        """When a reader reads, on the same clock: it sees what was written strictly before."""
        match reader:
            case HeadInput(layer) | Attention(layer):
                return 2 * layer + 1
            case MLP(layer) | Neuron(layer) | Expert(layer) | RouterInput(layer):
                return 2 * layer + (1 if self.shape.parallel else 2)
            case Logits():
                return 2 * self.shape.n_layers + 1

    @cached_property
    def uncoupled(self) -> "Graph":
        """The same nodes and edges, each node acting through what it writes alone."""
        return replace(self, shape=replace(self.shape, coupled_heads=False))

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
    def units(self) -> tuple[Unit, ...]:
        """What is computed at once: each layer's attention and MLP in order, and the logits last."""
        layers = range(self.shape.n_layers)
        return (
            *(unit for layer in layers for unit in ((Attention(layer), MLP(layer)) if self.shape.mlps else (Attention(layer),))),
            Logits(),
        )

    @cached_property
    def unit_of(self) -> tuple[int, ...]:
        """The index in ``units`` of each reader's unit."""
        index = {unit: i for i, unit in enumerate(self.units)}
        return tuple(index[unit_with(reader)] for reader in self.readers)

    @cached_property
    def readers_in(self) -> tuple[tuple[int, ...], ...]:
        """The readers of each unit, in order of computation."""
        readers: list[list[int]] = [[] for _ in self.units]
        for reader, unit in enumerate(self.unit_of):
            readers[unit].append(reader)
        return tuple(map(tuple, readers))

    @cached_property
    def writers_in(self) -> tuple[tuple[int, ...], ...]:
        """The writers of each unit, in order of computation; none for the logits."""
        index: dict[Unit, list[int]] = {unit: [] for unit in self.units}
        for row, writer in enumerate(self.writers):
            if not isinstance(writer, Embed):
                index[unit_with(writer)].append(row)
        return tuple(tuple(index[unit]) for unit in self.units)

    def writers_of(self, reader: Reader) -> tuple[int, ...]:
        """The writers whose output depends on this reader directly: a head, a group of heads, a block; none for logits."""
        match bare(reader):
            case Logits():
                return ()
            case Neuron(layer) if self.shape.coupled_heads:
                return tuple(self.writer_index[Neuron(layer, n)] for n in range(self.shape.neurons))
            case RouterInput(layer):
                return tuple(self.writer_index[Expert(layer, e)] for e in range(self.shape.experts))
            case Attention() | MLP() | Neuron() | Expert() as node:
                return (self.writer_index[node],)
            case HeadInput(layer, head, part):
                heads = [head]
                if part in ("k", "v") and self.scope.kv == "grouped":
                    group = self.shape.n_heads // self.shape.n_kv_heads
                    heads = [h for h in range(head * group, (head + 1) * group) if self.scope.of_head(layer, h) == "qkv"]
                if self.shape.coupled_heads:
                    heads = list(range(self.shape.n_heads))
                return tuple(self.writer_index[Head(layer, h)] for h in heads)

    def reader_of(self, layer: int, head: int, part: HeadPart) -> int:
        """Column of the reader from which a head takes its query, key or value, in the unplaced graph."""
        return self._head_readers[layer, head, part]

    @cached_property
    def _head_readers(self) -> dict[tuple[int, int, HeadPart], int]:
        parts: tuple[HeadPart, ...] = ("q", "k", "v")
        layers, heads = range(self.shape.n_layers), range(self.shape.n_heads)
        return {
            (layer, h, part): self.unplaced.reader_index[self._read_by(layer, h, part)]
            for layer in layers
            for h in heads
            for part in parts
        }

    def _read_by(self, layer: int, head: int, part: HeadPart) -> Reader:
        match self.scope.of_head(layer, head):
            case "block":
                return Attention(layer)
            case "head":
                return HeadInput(layer, head)
            case _:
                grouped = part != "q" and self.scope.kv == "grouped"
                return HeadInput(layer, self._stored(head) if grouped else head, part)

    def writer_of(self, layer: int, head: int) -> int:
        """Row of the writer in which a head's output is: the head, or its block."""
        return self._head_writers[layer, head]

    @cached_property
    def _head_writers(self) -> dict[tuple[int, int], int]:
        layers, heads = range(self.shape.n_layers), range(self.shape.n_heads)
        return {
            (layer, h): self.writer_index[Attention(layer) if self.is_block(layer) else Head(layer, h)]
            for layer in layers
            for h in heads
        }

    def find(self, edge: str | Edge) -> tuple[int, int]:
        """Row and column of an edge.

        Raises:
            GraphError: the name is malformed, or the writer is not computed before the reader.
            UnknownNameError: this graph has no such writer or reader.
        """
        edge = parse_edge(edge) if isinstance(edge, str) else edge
        writer, reader = bare(edge.writer), edge.reader
        if writer not in self.writer_index:
            raise UnknownNameError("writer", str(edge.writer), [str(w) for w in self.writers])
        if reader not in self.reader_index:
            raise UnknownNameError("reader", str(reader), [str(r) for r in self.readers])
        if edge.writer.place not in (None, reader.place):
            raise GraphError(f"there is no edge {edge}: an edge has both of its ends at one place")
        row, column = self.writer_index[writer], self.reader_index[reader]
        if row >= self.n_read(column):
            raise GraphError(f"there is no edge {edge}: {edge.writer} is not computed before {reader}")
        return row, column

    def edge(self, row: int, column: int) -> Edge:
        """The edge in a row and column of the matrix."""
        reader = self.readers[column]
        return Edge(at(self.writers[row], reader.place), reader)


def unit_with(node: Head | HeadInput | Attention | MLP | Neuron | Expert | RouterInput | Logits) -> Unit:
    """The unit that a node belongs to."""
    match bare(node):
        case Head(layer) | HeadInput(layer):
            return Attention(layer)
        case Neuron(layer) | Expert(layer) | RouterInput(layer):
            return MLP(layer)
        case Attention() | MLP() | Logits() as unit:
            return unit
