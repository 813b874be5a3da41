"""Attention, stage by stage; every run in the package is made of these.

    q, k, v = norm(x) W_Q, norm(x) W_K, norm(x) W_V        (+ biases, per-head norms, rotary positions)
    mixed   = softmax(q kᵀ, masked) v
    written = Σ over heads of mixed W_O  (+ b_O), normalised once more where a family has post-norms

A plain run projects all heads in one product and merges their outputs in another (``attention``). If heads read separate inputs,
or their outputs are kept separate, each head has its own product (``project``, ``attend``). Heads are the first axis.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.model.components import AS_IT_IS, Nonlinear, attention_mask, attention_pattern, finish_heads, norm_eps, normalize
from subcircuit.model.config import HeadPart, LayerNorm, NoNorm, RMSNorm
from subcircuit.model.transformer import Transformer
from subcircuit.model.weights import NormWeights

PARTS: tuple[HeadPart, ...] = ("q", "k", "v")


def attention(model: Transformer, layer: int, stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
    """One layer's attention output, as added to the stream, all heads together."""
    normed = normalize(stream, model.config.norm, model.weights.layers[layer].attention_norm)
    positions = torch.arange(stream.shape[1], device=stream.device)
    q, k, v = (project_together(model, layer, part, normed, positions) for part in PARTS)
    k, v = (x.repeat_interleave(model.config.heads_per_kv, dim=0) for x in (k, v))
    return merged(model, layer, mix(model, layer, q, k, v))


def project_together(
    model: Transformer, layer: int, part: HeadPart, normed: Float[Tensor, "batch pos d_model"], positions: Int[Tensor, " pos"]
) -> Float[Tensor, "head batch pos d_head"]:
    """Queries of all heads, or keys or values of all key/value heads, from one normalised input in one product."""
    W = _weights(model, layer, part)
    projected = F.linear(normed, W.flatten(0, 1)).unflatten(-1, W.shape[:2]).permute(2, 0, 1, 3)
    return finish(model, layer, part, projected, positions)


def project(
    model: Transformer,
    layer: int,
    part: HeadPart,
    x: Float[Tensor, "#head *rows pos d_model"],
    positions: Int[Tensor, " pos"],
    heads: tuple[int, ...],
) -> Float[Tensor, "head *rows pos d_head"]:
    """Queries, keys or values of some heads from one input each.

    Args:
        x: reader inputs, not yet normalised: one for each head in ``heads``, or a single one that all of them share.
        positions: token positions along the second-last axis of ``x``.
        heads: query heads; keys and values are those of the key/value head that each uses.
    """
    config, weights = model.config, model.weights.layers[layer]
    W = projection(model, layer, part, heads)
    normed = normalize(x, config.norm, weights.attention_norm).flatten(1, -2)
    shared = len(normed) == 1
    projected = torch.stack([normed[0] @ matrix.T for matrix in W]) if shared else torch.bmm(normed, W.mT)
    return finish(model, layer, part, projected.view(len(heads), *x.shape[1:-1], config.d_head), positions, heads)


def projection(model: Transformer, layer: int, part: HeadPart, heads: tuple[int, ...]) -> Float[Tensor, "head d_head d_model"]:
    """The matrices that make queries, keys or values of some query heads."""
    return _weights(model, layer, part)[_stored(model, part, heads)]


def finish(
    model: Transformer,
    layer: int,
    part: HeadPart,
    projected: Float[Tensor, "head *rows pos d_head"],
    positions: Int[Tensor, " pos"],
    heads: tuple[int, ...] | None = None,
    nonlinear: Nonlinear = AS_IT_IS,
) -> Float[Tensor, "head *rows pos d_head"]:
    """Queries, keys or values from the matrix product: bias, the per-head norm, rotary positions.

    Args:
        heads: query heads; None where there is one row for each head that is stored.
    """
    config, w = model.config, model.weights.layers[layer].attention
    bias, gain = {"q": (w.b_Q, w.q_norm), "k": (w.b_K, w.k_norm), "v": (w.b_V, None)}[part]
    if bias is not None:
        bias = bias if heads is None else bias[_stored(model, part, heads)]
        bias = bias.view(-1, *[1] * (projected.ndim - 2), config.d_head)
    rotary = None if part == "v" else config.rotary[layer]
    return finish_heads(projected, bias, gain, positions, rotary, norm_eps(config.norm), nonlinear)


def _weights(model: Transformer, layer: int, part: HeadPart) -> Float[Tensor, "head d_head d_model"]:
    w = model.weights.layers[layer].attention
    return {"q": w.W_Q, "k": w.W_K, "v": w.W_V}[part]


def _stored(model: Transformer, part: HeadPart, heads: tuple[int, ...]) -> Int[Tensor, " head"]:
    """The index of each query head's weights: for keys and values, that of the key/value head that it uses."""
    shared_by = 1 if part == "q" else model.config.heads_per_kv
    return torch.tensor([head // shared_by for head in heads], device=model.device)


def pattern(
    model: Transformer,
    layer: int,
    q: Float[Tensor, "head *#rows query d_head"],
    k: Float[Tensor, "head *#rows key d_head"],
) -> Float[Tensor, "head *rows query key"]:
    """The attention pattern, at all positions from the first."""
    positions = torch.arange(q.shape[-2], device=q.device)
    mask = attention_mask(positions, positions, model.config, layer)
    return attention_pattern(q @ k.transpose(-1, -2), mask, model.config)


def mix(
    model: Transformer,
    layer: int,
    q: Float[Tensor, "head batch pos d_head"],
    k: Float[Tensor, "head batch pos d_head"],
    v: Float[Tensor, "head batch pos d_head"],
) -> Float[Tensor, "head batch pos d_head"]:
    """Values mixed by the attention pattern, at all positions from the first."""
    return pattern(model, layer, q, k) @ v


def mix_at(
    model: Transformer,
    q: Float[Tensor, " head #trial batch slot d_head"],
    k: Float[Tensor, " head #trial batch key d_head"],
    v: Float[Tensor, " head #trial batch key d_head"],
    mask: Bool[Tensor, "batch slot key"],
) -> Float[Tensor, "head trial batch slot d_head"]:
    """Values mixed for some queries in several trials: queries, or keys and values, may be the same in all of them.

    Args:
        mask: which keys each query sees.
    """
    return _contract(attention_pattern(_contract(q, k.transpose(-1, -2)), mask, model.config), v)


def _contract(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product over the last two axes of ``[head, trial, batch, ...]``, trials folded into rows where ``b`` has one."""
    if b.shape[1] > 1 or a.shape[1] == 1:
        return a @ b
    folded = a.transpose(1, 2).flatten(2, 3) @ b[:, 0]
    return folded.unflatten(2, (a.shape[1], a.shape[3])).transpose(1, 2)


def merged(
    model: Transformer,
    layer: int,
    mixed: Float[Tensor, "head *rows d_head"],
    nonlinear: Nonlinear = AS_IT_IS,
) -> Float[Tensor, "*rows d_model"]:
    """The joint output of all heads for their mixed values, in one product."""
    weights = model.weights.layers[layer]
    written = mixed.movedim(0, -2).flatten(-2) @ weights.attention.W_O.flatten(0, 1)
    written = written if weights.attention.b_O is None else written + weights.attention.b_O
    post = weights.attention_post_norm
    return written if post is None else nonlinear.norm(written, model.config.norm, post)


def write_out(
    model: Transformer, layer: int, mixed: Float[Tensor, "head *rows d_head"], heads: tuple[int, ...]
) -> Float[Tensor, "head *rows d_model"]:
    """The outputs of heads for their mixed values, before any post-norm and without ``b_O``, which belongs to no head."""
    W_O = model.weights.layers[layer].attention.W_O[list(heads)]
    return torch.bmm(mixed.flatten(1, -2), W_O).view(*mixed.shape[:-1], -1)


def post_norm_scale(
    model: Transformer, weights: NormWeights | None, total: Float[Tensor, "*rows d_model"]
) -> Float[Tensor, "*rows d_model"] | None:
    """The factor that a post-norm puts on every head's (or neuron's) share of the layer's output; None without post-norms.

    post(Σ o_h) = g ⊙ Σ o_h / rms(Σ o_h), so head h's share is o_h times g / rms(Σ o_h): exact, and the shares sum to the block's output.

    Args:
        weights: of the post-norm.
        total: Σ o_h over all heads of the layer.
    """
    if weights is None:
        return None
    match model.config.norm:
        case RMSNorm(eps):
            wide = total if total.dtype == torch.float64 else total.float()
            scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps).to(total.dtype)
            return scale if weights.gain is None else scale * weights.gain
        case LayerNorm() | NoNorm():
            raise AssertionError("loaders give post-norms to RMSNorm families only")


def shares(
    model: Transformer, layer: int, mixed: Float[Tensor, "head batch pos d_head"]
) -> Float[Tensor, "head batch pos d_model"]:
    """The outputs of all heads of a layer for their mixed values, after any post-norm."""
    writes = write_out(model, layer, mixed, tuple(range(len(mixed))))
    scale = post_norm_scale(model, model.weights.layers[layer].attention_post_norm, writes.sum(0))
    return writes if scale is None else writes * scale


@dataclass(frozen=True, eq=False)
class Attended:
    """A layer's heads in one run: keys and values (repeated for every query head), and what each head writes."""

    k: Float[Tensor, "head batch pos d_head"]
    v: Float[Tensor, "head batch pos d_head"]
    writes: Float[Tensor, "head batch pos d_model"]


def attend(
    model: Transformer,
    layer: int,
    q_input: Float[Tensor, "#head batch pos d_model"],
    k_input: Float[Tensor, "#head batch pos d_model"],
    v_input: Float[Tensor, "#head batch pos d_model"],
) -> Attended:
    """All heads of a layer on inputs of their own, or (leading axis 1) on one that they share."""
    heads = tuple(range(model.config.n_heads))
    positions = torch.arange(q_input.shape[2], device=model.device)
    q, k, v = (
        project(model, layer, part, x, positions, heads) for part, x in zip(PARTS, (q_input, k_input, v_input), strict=True)
    )
    return Attended(k, v, shares(model, layer, mix(model, layer, q, k, v)))
