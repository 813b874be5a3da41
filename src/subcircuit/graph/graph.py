"""The computational graph: ordered writers and readers, and which writer can reach which reader.

An edge writer -> reader exists when the writer is computed before the reader. In sequential blocks the heads of a
layer feed its MLP; in parallel blocks (GPT-NeoX) they do not. With sandwich norms the heads of a layer share one
root mean square, so each of them acts wherever one of them acts: they are ``coupled``. So are the neurons of an MLP.

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
    parse_edge,
)
from subcircuit.graph.scope import Scope, component_named
from subcircuit.model.config import TransformerConfig

Unit: TypeAlias = Attention | MLP | Logits

# 64 million: scores of this size take half a gigabyte in float64
MOST_CELLS = 2**26


@dataclass(frozen=True, slots=True)
class GraphShape:
    """What of a model its graph depends on.

    Args:
        coupled_heads: the heads of a layer act on each other's writes (sandwich norms), and so do an MLP's neurons.
        neurons: of each MLP, where the scope resolves any of them; 0 otherwise, when no graph depends on it.
        mixtures: layers whose MLP is a mixture of experts.
        experts: of each mixture, without the one of all positions.
        shared_expert: mixtures have an expert of all positions.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    mlps: bool = True
    parallel: bool = False
    learned_positions: bool = False
    coupled_heads: bool = False
    neurons: int = 0
    mixtures: tuple[int, ...] = ()
    experts: int = 0
    shared_expert: bool = False

    @staticmethod
    def of(config: TransformerConfig) -> "GraphShape":
        """The shape of a model's graph."""
        experts = config.experts
        return GraphShape(
            config.n_layers,
            config.n_heads,
            config.n_kv_heads,
            config.d_mlp > 0,
            config.parallel,
            config.learned_positions,
            config.post_norms,
            mixtures=() if experts is None else experts.layers,
            experts=0 if experts is None else experts.n,
            shared_expert=experts is not None and experts.d_shared > 0,
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
        shape = GraphShape.of(config)
        shape = replace(shape, neurons=config.d_mlp) if scope.resolves_neurons else shape
        check_scope(shape, scope)
        return Graph(shape, scope)

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
        """Readers in order of computation; ``logits`` last.

        Per layer: heads with a single input, queries, keys, values of the others, the MLP, its neurons, or its router and experts.
        """
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
                'for example --scope "qkv, m5=neuron"; `subcircuit neurons` ranks all of them.'
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
        match reader:
            case Logits():
                return ()
            case Neuron(layer) if self.shape.coupled_heads:
                return tuple(self.writer_index[Neuron(layer, n)] for n in range(self.shape.neurons))
            case RouterInput(layer):
                return tuple(self.writer_index[Expert(layer, e)] for e in range(self.shape.experts))
            case Attention() | MLP() | Neuron() | Expert():
                return (self.writer_index[reader],)
            case HeadInput(layer, head, part):
                heads = [head]
                if part in ("k", "v") and self.scope.kv == "grouped":
                    group = self.shape.n_heads // self.shape.n_kv_heads
                    heads = [h for h in range(head * group, (head + 1) * group) if self.scope.of_head(layer, h) == "qkv"]
                if self.shape.coupled_heads:
                    heads = list(range(self.shape.n_heads))
                return tuple(self.writer_index[Head(layer, h)] for h in heads)

    def reader_of(self, layer: int, head: int, part: HeadPart) -> int:
        """Column of the reader from which a head takes its query, key or value at this scope."""
        return self._head_readers[layer, head, part]

    @cached_property
    def _head_readers(self) -> dict[tuple[int, int, HeadPart], int]:
        parts: tuple[HeadPart, ...] = ("q", "k", "v")
        layers, heads = range(self.shape.n_layers), range(self.shape.n_heads)
        return {
            (layer, h, part): self.reader_index[self._read_by(layer, h, part)]
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
        if edge.writer not in self.writer_index:
            raise UnknownNameError("writer", str(edge.writer), [str(w) for w in self.writers])
        if edge.reader not in self.reader_index:
            raise UnknownNameError("reader", str(edge.reader), [str(r) for r in self.readers])
        row, column = self.writer_index[edge.writer], self.reader_index[edge.reader]
        if row >= self.n_read(column):
            raise GraphError(f"there is no edge {edge}: {edge.writer} is not computed before {edge.reader}")
        return row, column


def unit_with(node: Head | HeadInput | Attention | MLP | Neuron | Expert | RouterInput | Logits) -> Unit:
    """The unit that a node belongs to."""
    match node:
        case Head(layer) | HeadInput(layer):
            return Attention(layer)
        case Neuron(layer) | Expert(layer) | RouterInput(layer):
            return MLP(layer)
        case _:
            return node


def check_scope(shape: GraphShape, scope: Scope) -> None:
    """A model of this shape has everything that a scope speaks of.

    Raises:
        GraphError: it has not.
    """
    if scope.split_embeddings and not shape.learned_positions:
        raise GraphError("token and position embeddings cannot be split: this model has no learned positions")
    if scope.level == "neuron" and not shape.mlps:
        raise GraphError("scope neuron: this model has no MLPs")
    if scope.level == "expert" and not shape.mixtures:
        raise GraphError("scope expert: this model has no experts, its MLPs are whole; choose another level, for example neuron")
    for layer in shape.mixtures:
        if scope.of_mlp(layer) == "neuron":
            raise GraphError(
                f"scope {scope}: m{layer} is a mixture of experts and resolves into these, not into neurons: write m{layer}=expert"
            )
    for name, level in scope.overrides:
        component = component_named(name)
        if component.layer >= shape.n_layers:
            raise GraphError(f"scope {scope}: there is no {name}, this model has layers 0 to {shape.n_layers - 1}")
        if isinstance(component, Head) and component.head >= shape.n_heads:
            raise GraphError(f"scope {scope}: there is no {name}, this model has heads 0 to {shape.n_heads - 1}")
        if isinstance(component, MLP) and not shape.mlps:
            raise GraphError(f"scope {scope}: there is no {name}, this model has no MLPs")
        if isinstance(component, MLP) and level == "expert" and component.layer not in shape.mixtures:
            mixed = ", ".join(f"m{layer}" for layer in shape.mixtures)
            raise GraphError(
                f"scope {scope}: {name} has no experts; " + (f"those that have are {mixed}" if mixed else "no layer has")
            )
