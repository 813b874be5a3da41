"""A transformer without some of its nodes, as a matter of weights.

    head h of layer l      o_h  ->  k o_h + (1 − k) c_h        W_O[h] · k,   b_O   + (1 − k) c_h
    MLP of layer l         m    ->  k m   + (1 − k) c          W_out · k,    b_out · k + (1 − k) c

o_h and m are what a head and an MLP write, the MLP with its bias; c is the constant that takes their place, k is 1 where a
node is kept and 0 where it is removed. The result is a transformer like any other, so that what is searched with is what
a checkpoint will hold, and it is differentiable in k.

With sandwich norms (Gemma 2 and 3) o_h and m are what goes *into* the norm after the block: a removed head no longer takes
part in the root mean square that its layer's other heads are divided by. That is what leaving it out of the weights
means; cutting edges (``run/forward.py``) takes away its share after that norm instead.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.graph import MLP, Head
from subcircuit.model import AttentionWeights, LayerWeights, MLPWeights, Transformer

Node: TypeAlias = Head | MLP


def blend(
    model: Transformer,
    nodes: Sequence[Node],
    kept: Float[Tensor, " part"],
    constants: Float[Tensor, "part d_model"] | None,
) -> Transformer:
    """The model with nodes scaled down towards constants.

    Args:
        nodes: heads and MLPs of the model, each once.
        kept: 1 for a node as it is, 0 for one that is removed.
        constants: what each node writes when it is removed; None is nothing, and then no bias is added.
    """
    layers = list(model.weights.layers)
    for layer in sorted({node.layer for node in nodes}):
        rows = [row for row, node in enumerate(nodes) if node.layer == layer]
        heads, mlp = ([row for row in rows if isinstance(nodes[row], kind)] for kind in (Head, MLP))
        changed = layers[layer]
        if heads:
            numbers = [node.head for row in heads if isinstance(node := nodes[row], Head)]
            fill = None if constants is None else (1 - kept[heads]) @ constants[heads]
            changed = replace(changed, attention=_attention(changed.attention, numbers, kept[heads], fill))
        if mlp:
            fill = None if constants is None else (1 - kept[mlp]) @ constants[mlp]
            changed = _with_mlp(changed, kept[mlp[0]], fill)
        layers[layer] = changed
    return replace(model, weights=replace(model.weights, layers=tuple(layers)))


def remove_nodes(model: Transformer, nodes: Sequence[Node], constants: Float[Tensor, "part d_model"] | None) -> Transformer:
    """The model without nodes; arguments as in `blend`."""
    return blend(model, nodes, torch.zeros(len(nodes), device=model.device, dtype=model.dtype), constants)


def _attention(
    weights: AttentionWeights, heads: list[int], kept: Float[Tensor, " head"], fill: Float[Tensor, " d_model"] | None
) -> AttentionWeights:
    scale = torch.ones(len(weights.W_O), device=kept.device, dtype=kept.dtype)
    scale = scale.index_copy(0, torch.tensor(heads, device=kept.device), kept)
    return replace(weights, W_O=weights.W_O * scale[:, None, None], b_O=_sum(weights.b_O, fill))


def _with_mlp(layer: LayerWeights, kept: Float[Tensor, ""], fill: Float[Tensor, " d_model"] | None) -> LayerWeights:
    weights = layer.mlp
    assert isinstance(weights, MLPWeights), "families with mixtures of experts are refused before"
    bias = None if weights.b_out is None else weights.b_out * kept
    return replace(layer, mlp=replace(weights, W_out=weights.W_out * kept, b_out=_sum(bias, fill)))


def _sum(bias: Float[Tensor, " d_model"] | None, fill: Float[Tensor, " d_model"] | None) -> Float[Tensor, " d_model"] | None:
    return fill if bias is None else bias if fill is None else bias + fill
