"""The computational graph: ordered writers and readers, and which writer can reach which reader.

An edge writer -> reader exists when the writer is computed before the reader. In sequential blocks the heads of a
layer feed its MLP; in parallel blocks (GPT-NeoX) they do not. With sandwich norms the heads of a layer share one
root mean square, so each of them acts wherever one of them acts: they are ``coupled``.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from subcircuit.errors import GraphError, UnknownNameError
from subcircuit.graph.nodes import MLP, Attention, Edge, Embed, Head, HeadInput, HeadPart, Logits, Reader, Writer, parse_edge
from subcircuit.graph.scope import Scope
from subcircuit.model.config import TransformerConfig

Unit: TypeAlias = Attention | MLP | Logits


@dataclass(frozen=True, slots=True)
class GraphShape:
    """What of a model its graph depends on.

    Args:
        coupled_heads: the heads of a layer act on each other's writes (sandwich norms).
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    mlps: bool = True
    parallel: bool = False
    learned_positions: bool = False
    coupled_heads: bool = False

    @staticmethod
    def of(config: TransformerConfig) -> "GraphShape":
        """The shape of a model's graph."""
        return GraphShape(
            config.n_layers,
            config.n_heads,
            config.n_kv_heads,
            config.d_mlp > 0,
            config.parallel,
            config.learned_positions,
            config.post_norms,
        )


@dataclass(frozen=True)
class Graph:
    """The nodes and edges of a model at a scope. Topology only: equal shapes and scopes make equal graphs."""

    shape: GraphShape
    scope: Scope

    @staticmethod
    def of(config: TransformerConfig, scope: Scope | None = None) -> "Graph":
        """The graph of a model.

        Raises:
            GraphError: the scope asks for something that the model does not have.
        """
        scope = Scope() if scope is None else scope
        if scope.split_embeddings and not config.learned_positions:
            raise GraphError("token and position embeddings cannot be split: this model has no learned positions")
        return Graph(GraphShape.of(config), scope)

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        """Writers in order of computation."""
        writers: list[Writer] = [Embed("token"), Embed("pos")] if self.scope.split_embeddings else [Embed()]
        for layer in range(self.shape.n_layers):
            if self.scope.level == "block":
                writers.append(Attention(layer))
            else:
                writers += [Head(layer, head) for head in range(self.shape.n_heads)]
            if self.shape.mlps:
                writers.append(MLP(layer))
        return tuple(writers)

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """Readers in order of computation: per layer queries, keys, values of all heads, the MLP; ``logits`` last."""
        readers: list[Reader] = []
        for layer in range(self.shape.n_layers):
            readers += self._attention_readers(layer)
            if self.shape.mlps:
                readers.append(MLP(layer))
        return (*readers, Logits())

    def _attention_readers(self, layer: int) -> list[Reader]:
        heads = range(self.shape.n_heads)
        match self.scope.level:
            case "block":
                return [Attention(layer)]
            case "head":
                return [HeadInput(layer, head) for head in heads]
            case "qkv":
                kv_heads = heads if self.scope.kv == "per_query_head" else range(self.shape.n_kv_heads)
                queries: list[Reader] = [HeadInput(layer, head, "q") for head in heads]
                return queries + [HeadInput(layer, head, part) for part in ("k", "v") for head in kv_heads]

    @cached_property
    def edges(self) -> Bool[Tensor, "writer reader"]:
        """Which writer is computed before which reader."""
        written = torch.tensor([self._written(w) for w in self.writers])
        read = torch.tensor([self._read(r) for r in self.readers])
        return written[:, None] < read

    def _written(self, writer: Writer) -> int:
        """A clock that ticks twice a layer: when a writer's output joins the stream."""
        match writer:
            case Embed():
                return 0
            case Head(layer) | Attention(layer) if not self.shape.parallel:
                return 2 * layer + 1
            case Head(layer) | Attention(layer) | MLP(layer):
                return 2 * layer + 2

    def _read(self, reader: Reader) -> int:
        """When a reader reads, on the same clock: it sees what was written strictly before."""
        match reader:
            case HeadInput(layer) | Attention(layer):
                return 2 * layer + 1
            case MLP(layer):
                return 2 * layer + (1 if self.shape.parallel else 2)
            case Logits():
                return 2 * self.shape.n_layers + 1

    @property
    def n_edges(self) -> int:
        """How many edges there are."""
        return int(self.edges.sum())

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
        return tuple(index[Attention(r.layer) if isinstance(r, HeadInput) else r] for r in self.readers)

    @cached_property
    def readers_in(self) -> tuple[tuple[int, ...], ...]:
        """The readers of each unit, in order of computation."""
        return tuple(tuple(r for r, u in enumerate(self.unit_of) if u == unit) for unit in range(len(self.units)))

    @cached_property
    def writers_in(self) -> tuple[tuple[int, ...], ...]:
        """The writers of each unit, in order of computation; none for the logits."""
        return tuple(tuple(sorted({w for r in readers for w in self.writers_of(self.readers[r])})) for readers in self.readers_in)

    def writers_of(self, reader: Reader) -> tuple[int, ...]:
        """The writers whose output depends on this reader directly: a head, a group of heads, a block; none for logits."""
        match reader:
            case Logits():
                return ()
            case Attention() | MLP():
                return (self.writer_index[reader],)
            case HeadInput(layer, head, part):
                heads = [head]
                if part in ("k", "v") and self.scope.kv == "grouped":
                    group = self.shape.n_heads // self.shape.n_kv_heads
                    heads = list(range(head * group, (head + 1) * group))
                if self.shape.coupled_heads:
                    heads = list(range(self.shape.n_heads))
                return tuple(self.writer_index[Head(layer, h)] for h in heads)

    def reader_of(self, layer: int, head: int, part: HeadPart) -> int:
        """Column of the reader from which a head takes its query, key or value at this scope."""
        match self.scope.level:
            case "block":
                return self.reader_index[Attention(layer)]
            case "head":
                return self.reader_index[HeadInput(layer, head)]
            case "qkv":
                grouped = part != "q" and self.scope.kv == "grouped"
                return self.reader_index[
                    HeadInput(layer, head * self.shape.n_kv_heads // self.shape.n_heads if grouped else head, part)
                ]

    def find(self, edge: str | Edge) -> tuple[int, int]:
        """Row and column of an edge.

        Raises:
            GraphError: the name is malformed, or the writer is not computed before the reader.
            UnknownNameError: this graph has no such writer or reader.
        """
        edge = parse_edge(edge) if isinstance(edge, str) else edge
        if edge.writer not in self.writer_index:
            raise UnknownNameError("writer", str(edge.writer), [str(w) for w in self.writers])
        if edge.reader not in self.reader_index:
            raise UnknownNameError("reader", str(edge.reader), [str(r) for r in self.readers])
        row, column = self.writer_index[edge.writer], self.reader_index[edge.reader]
        if not self.edges[row, column]:
            raise GraphError(f"there is no edge {edge}: {edge.writer} is not computed before {edge.reader}")
        return row, column
