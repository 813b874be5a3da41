"""MLPs in parts: neurons that each read an input of their own, and what they write.

    a_n = act(W_gate[n] · norm(x_n)) · (W_in[n] · norm(x_n)),        neuron n writes a_n W_out[n]

(without the gate where the family has none). ``b_out`` belongs to no neuron: it joins the stream with the layer and is
never ablated. Under a post-norm a neuron's write is its share, as a head's is (``heads.py``).

Cost: where inputs differ every neuron normalises one of its own, neurons × d_model numbers a row.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.heads import post_norm_scale
from subcircuit.engine.mixtures import experts_in, mixture_writes, normed
from subcircuit.graph import MLP, Attention, Graph
from subcircuit.graph.graph import Unit
from subcircuit.model.components import fire, neurons, normalize
from subcircuit.model.transformer import Transformer, feed_forward
from subcircuit.model.weights import MLPWeights


def mlp_weights(model: Transformer, layer: int) -> MLPWeights:
    """The weights of a layer's MLP, which resolves into neurons."""
    weights = model.weights.layers[layer].mlp
    assert isinstance(weights, MLPWeights)
    return weights


def activations(
    model: Transformer, layer: int, x: Float[Tensor, "neuron *rows d_model"], which: slice | list[int]
) -> Float[Tensor, " neuron *rows"]:
    """What neurons multiply their rows of ``W_out`` with, each on an input of its own."""
    w, norm = mlp_weights(model, layer), model.weights.layers[layer].mlp_norm
    assert norm is not None
    normed = normalize(x, model.config.norm, norm)
    gate = None if w.W_gate is None else _dot(normed, w.W_gate, w.b_gate, which)
    return fire(model.config, _dot(normed, w.W_in, w.b_in, which), gate)


def _dot(
    x: Float[Tensor, "neuron *rows d_model"],
    W: Float[Tensor, "d_mlp d_model"],
    b: Float[Tensor, " d_mlp"] | None,
    which: slice | list[int],
) -> Float[Tensor, " neuron *rows"]:
    read = torch.bmm(x.flatten(1, -2), W[which][..., None]).view(x.shape[:-1])
    return read if b is None else read + b[which].view(-1, *[1] * (read.ndim - 1))


def write_out(
    model: Transformer, layer: int, activation: Float[Tensor, " neuron *rows"], which: slice | list[int]
) -> Float[Tensor, "neuron *rows d_model"]:
    """What neurons write for their activations, before any post-norm."""
    W_out = mlp_weights(model, layer).W_out[which]
    return activation[..., None] * W_out.view(len(W_out), *[1] * (activation.ndim - 1), -1)


def shares(model: Transformer, layer: int, activation: Float[Tensor, " neuron *rows"]) -> Float[Tensor, "neuron *rows d_model"]:
    """What all neurons of a layer write for their activations, after any post-norm."""
    writes = write_out(model, layer, activation, slice(None))
    scale = mlp_scale(model, layer, writes.sum(0))
    return writes if scale is None else writes * scale


def mlp_scale(model: Transformer, layer: int, total: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"] | None:
    """The factor that a post-norm puts on every neuron's share of what they write in all; None without post-norms."""
    post = model.weights.layers[layer].mlp_post_norm
    assert post is None or mlp_weights(model, layer).b_out is None, "families with post-norms have no biases"
    return post_norm_scale(model, post, total)


def mlp_writes(
    model: Transformer, graph: Graph, layer: int, stream: Float[Tensor, "*rows d_model"]
) -> Float[Tensor, "writer *rows d_model"]:
    """What an MLP's writers write when all of its readers find the same stream."""
    if graph.has_experts(layer):
        x = normed(model, layer, stream)
        return mixture_writes(model, graph, layer, x, [x] * len(experts_in(graph, layer)))
    if not graph.has_neurons(layer):
        return feed_forward(model, layer, stream)[None]
    norm = model.weights.layers[layer].mlp_norm
    assert norm is not None
    activation = neurons(model.config, mlp_weights(model, layer), normalize(stream, model.config.norm, norm))
    return shares(model, layer, activation.movedim(-1, 0))


def unit_bias(model: Transformer, graph: Graph, unit: Unit) -> Float[Tensor, " d_model"] | None:
    """What joins the stream with a unit's writes and belongs to none of its writers: ``b_O``, or ``b_out`` of neurons."""
    match unit:
        case Attention(layer):
            return model.weights.layers[layer].attention.b_O
        case MLP(layer) if graph.has_neurons(layer):
            return mlp_weights(model, layer).b_out
        case _:
            return None
