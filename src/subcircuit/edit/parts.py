"""A model as something that parts can be taken out of: nodes, or edges.

Both run with a number for each part, 1 where it stays and 0 where it is gone, and are differentiable in it.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.edit.weights import Node, blend
from subcircuit.engine import last_stream
from subcircuit.graph import MLP, Attention, Circuit, Graph, Head, Neuron
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer

Stream: TypeAlias = Callable[[Tokens], Float[Tensor, "batch pos d_model"]]
"""From prompts to the last residual stream, before the final norm."""


@dataclass(frozen=True, eq=False)
class NodeParts:
    """Heads, MLPs and neurons, removed from the weights.

    Args:
        constants: what each node writes when it is gone; None is nothing.
    """

    model: Transformer
    nodes: tuple[Node, ...]
    constants: Float[Tensor, "part d_model"] | None

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes' names."""
        return tuple(str(node) for node in self.nodes)

    @property
    def single(self) -> bool:
        """They are few and matter one by one."""
        return True

    def stream(self, kept: Float[Tensor, " part"], tokens: Tokens) -> Float[Tensor, "batch pos d_model"]:
        """A plain forward pass of the edited weights."""
        if kept.requires_grad:
            return blend(self.model, self.nodes, kept, self.constants).stream(tokens)
        gone = (kept != 1).nonzero().flatten().tolist()
        constants = None if self.constants is None else self.constants[gone]
        return blend(self.model, [self.nodes[row] for row in gone], kept[gone], constants).stream(tokens)


@dataclass(frozen=True, eq=False)
class EdgeParts:
    """Edges, which are cut: they carry constants.

    Args:
        rows, columns: writer and reader of each edge.
        constants: what each writer's cut edges carry.
    """

    model: Transformer
    graph: Graph
    rows: Int[Tensor, " part"]
    columns: Int[Tensor, " part"]
    constants: Float[Tensor, "writer d_model"]

    @staticmethod
    def of(model: Transformer, circuit: Circuit, constants: Float[Tensor, "writer d_model"]) -> "EdgeParts":
        """The edges of a circuit, by reader and then by writer."""
        columns, rows = circuit.kept.T.nonzero(as_tuple=True)
        return EdgeParts(model, circuit.graph, rows, columns, constants)

    @property
    def names(self) -> tuple[str, ...]:
        """The edges' names."""
        writers, readers = self.graph.writers, self.graph.readers
        pairs = zip(self.rows.tolist(), self.columns.tolist(), strict=True)
        return tuple(f"{writers[row]}->{readers[column]}" for row, column in pairs)

    @property
    def single(self) -> bool:
        """They are many and are tried in groups."""
        return False

    def mask(self, kept: Float[Tensor, " part"]) -> Float[Tensor, "writer reader"]:
        """Of the whole graph."""
        return self.graph.edges.to(kept.dtype).index_put((self.rows, self.columns), kept.cpu())

    def left(self, removed: Sequence[int]) -> Circuit:
        """The whole graph without some of the parts."""
        gone, kept = torch.tensor(list(removed), dtype=torch.long), self.graph.edges.clone()
        kept[self.rows[gone], self.columns[gone]] = False
        return Circuit(self.graph, kept)

    def stream(self, kept: Float[Tensor, " part"], tokens: Tokens) -> Float[Tensor, "batch pos d_model"]:
        """The masked forward pass."""
        return cut_stream(self.model, self.graph, self.mask(kept), tokens, self.constants)


Parts: TypeAlias = NodeParts | EdgeParts
"""Parts of a model that a search may remove."""


def cut_stream(
    model: Transformer,
    graph: Graph,
    kept: Float[Tensor, "writer reader"],
    tokens: Tokens,
    constants: Float[Tensor, "writer d_model"],
) -> Float[Tensor, "batch pos d_model"]:
    """The masked forward pass with constants on cut edges: it needs no corrupted prompts."""
    carried = constants.to(model.device, model.dtype)[:, None, None].expand(-1, *tokens.ids.shape, -1)
    return last_stream(model, graph, kept, tokens, carried)


def nodes_of(circuit: Circuit) -> tuple[Node, ...]:
    """The heads, MLPs and neurons that a circuit's edges touch, in order of computation; a block stands for its heads.

    Embeddings are left out: they are no circuit's own.
    """
    nodes: list[Node] = []
    for node in circuit.nodes:
        match node:
            case Head() | MLP() | Neuron():
                nodes.append(node)
            case Attention(layer):
                nodes += [Head(layer, head) for head in range(circuit.graph.shape.n_heads)]
    return tuple(nodes)


def all_nodes(model: Transformer, split: Collection[int] = ()) -> tuple[Node, ...]:
    """Every head and MLP of a model, in order of computation.

    Args:
        split: layers whose MLP is resolved into its neurons.
    """
    nodes: list[Node] = []
    for layer in range(model.config.n_layers):
        nodes += [Head(layer, head) for head in range(model.config.n_heads)]
        if layer in split:
            nodes += [Neuron(layer, neuron) for neuron in range(model.config.d_mlp)]
        elif model.config.d_mlp:
            nodes.append(MLP(layer))
    return tuple(nodes)
