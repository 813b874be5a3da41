"""Gradients of a loss with respect to every reader's input, at a run of the whole model.

With all edges kept, the readers of a layer find the same residual stream x. A head's queries read W_Q norm(x), so

    dL/d input(a.h<q>) = J(x)ᵀ W_Qᵀ dL/d(W_Q norm(x)),        J the Jacobian of the norm at x,

and likewise for keys and values: split inputs need never be there. Keys and values are taken apart per query head
first, as the masked forward pass defines them (``forward.py``). What is written by a layer's nodes goes to the same
readers, so one gradient of the stream, carried backwards, serves all of them:

    dL/d stream before = dL/d stream after + Σ over the unit's readers of dL/d input(reader)

Cost: one more forward pass (layers are run again when their turn comes; only the streams between them are kept) and
one backward pass through inputs alone. Memory: the streams, and the readers' gradients of one unit, a vector of d_model
for every neuron where an MLP is resolved into them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.heads import PARTS, finish, mix, projection
from subcircuit.engine.mixtures import experts_in, mixture_writes, normed
from subcircuit.engine.mlps import mlp_weights
from subcircuit.graph import MLP, Attention, Graph
from subcircuit.model.components import AS_IT_IS, Nonlinear, fire, normalize
from subcircuit.model.config import LayerNorm, NoNorm, Norm, RMSNorm
from subcircuit.model.transformer import Transformer, attention, feed_forward
from subcircuit.model.weights import NormWeights

Streams: TypeAlias = tuple[Float[Tensor, "batch pos d_model"], ...]
"""What readers find at each unit of a graph, the logits last."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How gradients are carried backwards; what methods other than plain gradients change.

    Args:
        nonlinear: the layers' functions, whose gradients are taken.
        frozen_norms: norms' scales count as constants; ``nonlinear.norm`` has to agree.
        dropped: a layer that passes nothing back, as if it wrote constants; its readers' gradients are zero.
    """

    nonlinear: Nonlinear = AS_IT_IS
    frozen_norms: bool = False
    dropped: int | None = None


GRADIENTS = Rules()


@dataclass(frozen=True, eq=False)
class UnitGradient:
    """Gradients at one unit.

    Args:
        readers: columns of the unit's readers, each place by place.
        at_readers: with respect to the input of each reader, at all places.
        written: with respect to what each of the unit's writers writes; zero at the logits, which write nothing.
    """

    readers: tuple[int, ...]
    at_readers: Float[Tensor, "reader batch pos d_model"]
    written: Float[Tensor, "batch pos d_model"]


@torch.no_grad()
def streams_from(model: Transformer, stream: Float[Tensor, "batch pos d_model"], first: int = 0) -> Streams:
    """Run the model on any embedding, or from a later unit on.

    Args:
        stream: what the first unit reads.
        first: its index among the graph's units; in parallel blocks that of no MLP, whose stream no other unit reads.
    """
    streams, per_layer = [], 2 if model.config.d_mlp else 1
    for layer in range(first // per_layer, model.config.n_layers):
        attended = stream
        if first <= per_layer * layer:
            streams.append(stream)
            attended = stream + attention(model, layer, stream)
        if model.config.d_mlp:
            streams.append(stream if model.config.parallel else attended)
            attended = attended + feed_forward(model, layer, streams[-1])
        stream = attended
    return (*streams, stream)


@torch.no_grad()
def reader_gradients(
    model: Transformer,
    graph: Graph,
    streams: Streams,
    at_logits: Float[Tensor, "batch pos d_model"],
    rules: Rules = GRADIENTS,
) -> Iterator[UnitGradient]:
    """Gradients of a loss at every unit, from the logits backwards.

    Args:
        streams: of the run at which to differentiate.
        at_logits: gradient of the loss with respect to the last stream.
        rules: how gradients pass what is not linear.
    """
    after = widened(at_logits)
    columns, graph = graph.readers_in, graph.unplaced
    yield UnitGradient(columns[-1], after[None], torch.zeros_like(after))
    for layer in reversed(range(model.config.n_layers)):
        into_attention = after
        if model.config.d_mlp:
            unit = graph.units.index(MLP(layer))
            gradients = _mlp_gradients(model, graph, layer, streams[unit], after, rules)
            yield UnitGradient(columns[unit], gradients, after)
            gradient = gradients.sum(0)
            into_attention = after if model.config.parallel else after + gradient
            after = after + gradient
        unit = graph.units.index(Attention(layer))
        gradients = _head_gradients(model, graph, layer, streams[unit], into_attention, rules)
        yield UnitGradient(columns[unit], gradients, into_attention)
        after = after + gradients.sum(0)


def norm_pull_back(
    norm: Norm,
    weights: NormWeights,
    x: Float[Tensor, "*#rows d_model"],
    gradient: Float[Tensor, "*rows d_model"],
    frozen: bool = False,
) -> Float[Tensor, "*rows d_model"]:
    """Gradients with respect to a norm's input from those with respect to its output; many of them may share one input.

    With x̂ = s (x − mean x), or s x for RMSNorm, and c = gain ⊙ gradient: s (c − [mean c] − x̂ mean(c x̂)). In float32 at
    least, as the norm itself.

    Args:
        frozen: the scale s counts as a constant: s (c − [mean c]).
    """
    x, c = widened(x), widened(gradient if weights.gain is None else gradient * weights.gain)
    match norm:
        case NoNorm():
            return c
        case LayerNorm(eps):
            x, c = x - x.mean(-1, keepdim=True), c - c.mean(-1, keepdim=True)
        case RMSNorm(eps):
            pass
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    if frozen:
        return c * scale
    x_hat = x * scale
    along = torch.linalg.vecdot(c, x_hat)[..., None] / x.shape[-1]
    return torch.addcmul(c, x_hat, along, value=-1).mul_(scale)


def pull_back(function: Callable[..., Tensor], inputs: tuple[Tensor, ...] | list[Tensor], gradient: Tensor) -> tuple[Tensor, ...]:
    """Gradients with respect to a function's inputs from that with respect to its output."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        output = function(*leaves)
    return torch.autograd.grad(output, leaves, gradient.to(output.dtype))


def widened(x: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """In float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def _mlp_gradients(
    model: Transformer,
    graph: Graph,
    layer: int,
    stream: Float[Tensor, "batch pos d_model"],
    after: Float[Tensor, "batch pos d_model"],
    rules: Rules,
) -> Float[Tensor, "reader batch pos d_model"]:
    """Gradients with respect to the input of an MLP, or of each of its neurons, or of its router and experts."""
    if layer == rules.dropped:
        return torch.zeros_like(after).expand(len(graph.readers_in[graph.units.index(MLP(layer))]), *after.shape)
    if graph.has_experts(layer):
        return _mixture_gradients(model, graph, layer, stream, after, rules)
    if not graph.has_neurons(layer):
        return widened(pull_back(lambda x: feed_forward(model, layer, x, rules.nonlinear), (stream,), after)[0])[None]
    config, weights, mlp = model.config, model.weights.layers[layer], mlp_weights(model, layer)
    assert weights.mlp_norm is not None
    x = normalize(stream, config.norm, weights.mlp_norm)
    maps = [(mlp.W_in, mlp.b_in)] if mlp.W_gate is None else [(mlp.W_in, mlp.b_in), (mlp.W_gate, mlp.b_gate)]
    read = [F.linear(x, W, b) for W, b in maps]
    gradients = pull_back(lambda *read: _fire(model, layer, rules.nonlinear, *read), read, after)
    pulled = (torch.einsum("bpn,nd->nbpd", g, W) for g, (W, _) in zip(gradients, maps, strict=True))
    at_normed = reduce(torch.add, pulled)
    return norm_pull_back(config.norm, weights.mlp_norm, stream, at_normed, rules.frozen_norms)


def _mixture_gradients(
    model: Transformer,
    graph: Graph,
    layer: int,
    stream: Float[Tensor, "batch pos d_model"],
    after: Float[Tensor, "batch pos d_model"],
    rules: Rules,
) -> Float[Tensor, "reader batch pos d_model"]:
    """Gradients with respect to the input of a mixture's router and of each of its experts; routing is frozen."""
    x, n_readers = normed(model, layer, stream), 1 + len(experts_in(graph, layer))

    def written(router: Tensor, *experts: Tensor) -> Tensor:
        return mixture_writes(model, graph, layer, router, experts, rules.nonlinear).sum(0)

    norm = model.weights.layers[layer].mlp_norm
    assert norm is not None
    at_normed = torch.stack(pull_back(written, (x,) * n_readers, after))
    return norm_pull_back(model.config.norm, norm, stream, at_normed, rules.frozen_norms)


def _fire(
    model: Transformer,
    layer: int,
    nonlinear: Nonlinear,
    read: Float[Tensor, "batch pos d_mlp"],
    gate: Float[Tensor, "batch pos d_mlp"] | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """What an MLP adds to the stream (without ``b_out``), from what its neurons read."""
    written = fire(model.config, read, gate, nonlinear) @ mlp_weights(model, layer).W_out
    post = model.weights.layers[layer].mlp_post_norm
    return written if post is None else nonlinear.norm(written, model.config.norm, post)


def _head_gradients(
    model: Transformer,
    graph: Graph,
    layer: int,
    stream: Float[Tensor, "batch pos d_model"],
    after: Float[Tensor, "batch pos d_model"],
    rules: Rules,
) -> Float[Tensor, "reader batch pos d_model"]:
    """Gradients with respect to the input of each reader of a layer's attention."""
    config, weights = model.config, model.weights.layers[layer]
    readers = graph.readers_in[graph.units.index(Attention(layer))]
    first, n_readers = readers[0], len(readers)
    if layer == rules.dropped:
        return after.new_zeros(n_readers, *after.shape)
    heads, normed = tuple(range(config.n_heads)), normalize(stream, config.norm, weights.attention_norm).flatten(0, 1)
    matrices = [projection(model, layer, part, heads) for part in PARTS]
    projected = [(normed @ W.flatten(0, 1).T).view(*stream.shape[:2], *W.shape[:2]).permute(2, 0, 1, 3) for W in matrices]
    gradients = pull_back(lambda *qkv: _attend(model, layer, *qkv, nonlinear=rules.nonlinear), projected, after)
    at_normed = normed.new_zeros(n_readers, *normed.shape)
    for part, W, gradient in zip(PARTS, matrices, gradients, strict=True):
        for head in heads:
            # one product a head: readers of several heads and parts (blocks, groups) take the sum
            reader = graph.reader_of(layer, head, part) - first
            at_normed[reader].addmm_(gradient[head].flatten(0, 1), W[head])
    at_normed = at_normed.unflatten(1, stream.shape[:2])
    return norm_pull_back(config.norm, weights.attention_norm, stream, at_normed, rules.frozen_norms)


def _attend(
    model: Transformer,
    layer: int,
    q: Float[Tensor, "head batch pos d_head"],
    k: Float[Tensor, "head batch pos d_head"],
    v: Float[Tensor, "head batch pos d_head"],
    nonlinear: Nonlinear,
) -> Float[Tensor, "batch pos d_model"]:
    """What a layer's attention adds to the stream (without ``b_O``), from products of matrices and stream alone."""
    weights, heads = model.weights.layers[layer], tuple(range(len(q)))
    positions = torch.arange(q.shape[2], device=q.device)
    q, k, v = (finish(model, layer, part, x, positions, heads, nonlinear) for part, x in zip(PARTS, (q, k, v), strict=True))
    mixed = mix(model, layer, q, k, v)
    written = mixed.permute(1, 2, 0, 3).flatten(2) @ weights.attention.W_O.flatten(0, 1)
    post = weights.attention_post_norm
    return written if post is None else nonlinear.norm(written, model.config.norm, post)
