"""Removal of nodes from a transformer's weights.

    head h of layer l      o_h  ->  k o_h + (1 − k) c_h        W_O[h] · k,   b_O   + (1 − k) c_h
    MLP of layer l         m    ->  k m   + (1 − k) c          W_out · k,    b_out · k + (1 − k) c
    neuron i of it         n_i  ->  k n_i + (1 − k) c_i        W_out[i] · k, b_out   + (1 − k) c_i

o_h, m and n_i are the outputs of a head, an MLP (with its bias) and a neuron; c is the constant that replaces them; k is 1 for a
kept node and 0 for a removed one. The result is an ordinary transformer, so the search runs the model that the checkpoint will
hold, and it is differentiable in k.

With sandwich norms (Gemma 2 and 3) o_h and m are what goes *into* the norm after the block: a removed head no longer takes
part in the root mean square that divides its layer's other heads. Cutting edges (``engine/forward.py``) removes its share after
that norm instead.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.errors import EditError
from subcircuit.graph import Node
from subcircuit.model import AttentionWeights, LayerWeights, MLPWeights, Transformer

WHOLE = slice(None)
"""All neurons of an MLP, with its biases."""


@dataclass(frozen=True)
class Taken:
    """The output weights of one layer that belong to some nodes, by the node's index among those given.

    Args:
        heads: number of each head.
        neurons: all of an MLP, ``WHOLE``, or some of it.
    """

    heads: dict[int, int] = field(default_factory=dict)
    neurons: dict[int, slice] = field(default_factory=dict)


def is_whole_mlp(neurons: Sequence[slice | None]) -> bool:
    """Whether the neurons of some nodes are a whole MLP, with its biases: one node has them all."""
    return list(neurons) == [WHOLE]


def can_be_removed(node: Node) -> bool:
    """Whether a node is a part of the weights: a head, an MLP or neurons of it."""
    return node.layer is not None and (node.column is not None or node.neurons is not None)


def resolved_layers(nodes: Iterable[Node]) -> set[int]:
    """Layers of which neurons are among the nodes."""
    return {node.layer for node in nodes if node.layer is not None and node.neurons not in (None, WHOLE)}


def taken(nodes: Sequence[Node]) -> dict[int, Taken]:
    """The output weights of each layer that belong to the nodes, from the first layer with one of them.

    Raises:
        EditError: one of them is no part of the weights: a whole attention block, an expert, the embedding.
    """
    layers: dict[int, Taken] = {}
    for index, node in enumerate(nodes):
        if node.layer is None or not can_be_removed(node):
            raise EditError(f"{node} cannot be removed from the weights: name heads, MLPs or neurons")
        mine = layers.setdefault(node.layer, Taken())
        if node.column is not None:
            mine.heads[index] = node.column
        if node.neurons is not None:
            mine.neurons[index] = node.neurons
    return dict(sorted(layers.items()))


def blend(
    model: Transformer,
    nodes: Sequence[Node],
    kept: Float[Tensor, " part"],
    constants: Float[Tensor, "part d_model"] | None,
) -> Transformer:
    """The model with nodes scaled down towards constants.

    Args:
        nodes: heads, MLPs and neurons of the model, each once; of an MLP not also its neurons.
        kept: 1 for a node as it is, 0 for one that is removed.
        constants: the constant that replaces each removed node's output; None is zero, and then no bias is added.

    Raises:
        EditError: one of them is no part of the weights.
    """
    layers = list(model.weights.layers)
    for layer, parts in taken(nodes).items():
        changed = layers[layer]
        if rows := list(parts.heads):
            heads = list(parts.heads.values())
            changed = replace(changed, attention=_attention(changed.attention, heads, kept[rows], _fill(kept, constants, rows)))
        if rows := list(parts.neurons):
            changed = replace(changed, mlp=_mlp(changed, list(parts.neurons.values()), kept[rows], _fill(kept, constants, rows)))
        layers[layer] = changed
    return replace(model, weights=replace(model.weights, layers=tuple(layers)))


@entry
def remove_nodes(model: Transformer, nodes: Sequence[Node], constants: Float[Tensor, "part d_model"] | None) -> Transformer:
    """The model without nodes; arguments and errors as in `blend`."""
    return blend(model, nodes, torch.zeros(len(nodes), device=model.device, dtype=model.dtype), constants)


def _attention(
    weights: AttentionWeights, heads: list[int], kept: Float[Tensor, " part"], fill: Float[Tensor, " d_model"] | None
) -> AttentionWeights:
    scale = _scale(len(weights.W_O), heads, kept)
    return replace(weights, W_O=weights.W_O * scale[:, None, None], b_O=_sum(weights.b_O, fill))


def _mlp(
    layer: LayerWeights, neurons: list[slice], kept: Float[Tensor, " part"], fill: Float[Tensor, " d_model"] | None
) -> MLPWeights:
    weights = layer.mlp
    assert isinstance(weights, MLPWeights), "families with mixtures of experts are refused before"
    if is_whole_mlp(neurons):
        bias = None if weights.b_out is None else weights.b_out * kept[0]
        return replace(weights, W_out=weights.W_out * kept[0], b_out=_sum(bias, fill))
    size = len(weights.W_out)
    of_each = [range(size)[which] for which in neurons]
    per_row = kept.repeat_interleave(torch.tensor([len(mine) for mine in of_each], device=kept.device))
    scale = _scale(size, [row for mine in of_each for row in mine], per_row)
    return replace(weights, W_out=weights.W_out * scale[:, None], b_out=_sum(weights.b_out, fill))


def _scale(size: int, rows: list[int], kept: Float[Tensor, " part"]) -> Float[Tensor, " row"]:
    """1 everywhere but at some rows."""
    ones = torch.ones(size, device=kept.device, dtype=kept.dtype)
    return ones.index_copy(0, torch.tensor(rows, device=kept.device), kept)


def _fill(
    kept: Float[Tensor, " part"], constants: Float[Tensor, "part d_model"] | None, rows: list[int]
) -> Float[Tensor, " d_model"] | None:
    """The joint constant of some parts, for those that are removed."""
    return None if constants is None else (1 - kept[rows]) @ constants[rows]


def _sum(bias: Float[Tensor, " d_model"] | None, fill: Float[Tensor, " d_model"] | None) -> Float[Tensor, " d_model"] | None:
    return fill if bias is None else bias if fill is None else bias + fill
