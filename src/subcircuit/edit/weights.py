"""A transformer without some of its nodes, as a matter of weights.

    head h of layer l      o_h  ->  k o_h + (1 − k) c_h        W_O[h] · k,   b_O   + (1 − k) c_h
    MLP of layer l         m    ->  k m   + (1 − k) c          W_out · k,    b_out · k + (1 − k) c
    neuron i of it         n_i  ->  k n_i + (1 − k) c_i        W_out[i] · k, b_out   + (1 − k) c_i

o_h, m and n_i are what a head, an MLP and a neuron write, the MLP with its bias; c is the constant that takes their place, k is 1 where a
node is kept and 0 where it is removed. The result is a transformer like any other, so that what is searched with is what
a checkpoint will hold, and it is differentiable in k.

With sandwich norms (Gemma 2 and 3) o_h and m are what goes *into* the norm after the block: a removed head no longer takes
part in the root mean square that its layer's other heads are divided by. That is what leaving it out of the weights
means; cutting edges (``engine/forward.py``) takes away its share after that norm instead.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.graph import MLP, Head, Neuron
from subcircuit.model import AttentionWeights, LayerWeights, MLPWeights, Transformer

Node: TypeAlias = Head | MLP | Neuron


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
        constants: what each node writes when it is removed; None is nothing, and then no bias is added.
    """
    layers = list(model.weights.layers)
    for layer in sorted({node.layer for node in nodes}):
        rows = [row for row, node in enumerate(nodes) if node.layer == layer]
        heads, mlp, neurons = ([row for row in rows if isinstance(nodes[row], kind)] for kind in (Head, MLP, Neuron))
        changed = layers[layer]
        if heads:
            numbers = [node.head for row in heads if isinstance(node := nodes[row], Head)]
            attention = _attention(changed.attention, numbers, kept[heads], _fill(kept, constants, heads))
            changed = replace(changed, attention=attention)
        if mlp:
            changed = _with_mlp(changed, kept[mlp[0]], _fill(kept, constants, mlp))
        if neurons:
            numbers = [node.neuron for row in neurons if isinstance(node := nodes[row], Neuron)]
            changed = _with_neurons(changed, numbers, kept[neurons], _fill(kept, constants, neurons))
        layers[layer] = changed
    return replace(model, weights=replace(model.weights, layers=tuple(layers)))


@entry
def remove_nodes(model: Transformer, nodes: Sequence[Node], constants: Float[Tensor, "part d_model"] | None) -> Transformer:
    """The model without nodes; arguments as in `blend`."""
    return blend(model, nodes, torch.zeros(len(nodes), device=model.device, dtype=model.dtype), constants)


def _attention(
    weights: AttentionWeights, heads: list[int], kept: Float[Tensor, " part"], fill: Float[Tensor, " d_model"] | None
) -> AttentionWeights:
    scale = _scale(len(weights.W_O), heads, kept)
    return replace(weights, W_O=weights.W_O * scale[:, None, None], b_O=_sum(weights.b_O, fill))


def _with_mlp(layer: LayerWeights, kept: Float[Tensor, ""], fill: Float[Tensor, " d_model"] | None) -> LayerWeights:
    weights = layer.mlp
    assert isinstance(weights, MLPWeights), "families with mixtures of experts are refused before"
    bias = None if weights.b_out is None else weights.b_out * kept
    return replace(layer, mlp=replace(weights, W_out=weights.W_out * kept, b_out=_sum(bias, fill)))


def _with_neurons(
    layer: LayerWeights, neurons: list[int], kept: Float[Tensor, " part"], fill: Float[Tensor, " d_model"] | None
) -> LayerWeights:
    weights = layer.mlp
    assert isinstance(weights, MLPWeights), "mixtures of experts have no neurons"
    scale = _scale(len(weights.W_out), neurons, kept)
    return replace(layer, mlp=replace(weights, W_out=weights.W_out * scale[:, None], b_out=_sum(weights.b_out, fill)))


def _scale(size: int, places: list[int], kept: Float[Tensor, " part"]) -> Float[Tensor, " row"]:
    """1 everywhere but at some places."""
    ones = torch.ones(size, device=kept.device, dtype=kept.dtype)
    return ones.index_copy(0, torch.tensor(places, device=kept.device), kept)


def _fill(
    kept: Float[Tensor, " part"], constants: Float[Tensor, "part d_model"] | None, rows: list[int]
) -> Float[Tensor, " d_model"] | None:
    """What some parts write together where they are gone."""
    return None if constants is None else (1 - kept[rows]) @ constants[rows]


def _sum(bias: Float[Tensor, " d_model"] | None, fill: Float[Tensor, " d_model"] | None) -> Float[Tensor, " d_model"] | None:
    return fill if bias is None else bias if fill is None else bias + fill
