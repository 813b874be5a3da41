"""The parts of a decoder as pure functions; every forward pass in the package is made of these.

Mixture-of-experts MLPs (Shazeer et al. 2017, arXiv 1701.06538): a router sends each position to a few small MLPs.

    p = softmax(W_router x)          T = the ``top`` experts of largest p
    g_e = p_e for e in T (divided by Σ over T of p where the model normalises), else 0
    output = Σ over e in T of g_e f_e(x)  [+ σ(W_shared · x) f_shared(x)]

Which experts are chosen is not continuous in x: where two logits cross, the output jumps. Gradients do not see that. They
see the routing of the run at which they are taken as fixed, and the shares g_e of the chosen experts as functions of x
through the softmax; an expert that is not chosen has none. So what acts by sending a position elsewhere shows in exact
effects (``acdc``, ``exact``) and not in gradients (``eap`` and its kin), unless they are taken along a path
(``eap-ig-inputs``) that crosses over.

Logits within rounding of each other may send a position one way in float32 and the other in float64, or on another
machine. Equal logits go to the expert of lower number, so that the same numbers always make the same choice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.model.config import Activation, Experts, LayerNorm, NoNorm, Norm, RMSNorm, Rotary, TransformerConfig
from subcircuit.model.weights import MixtureWeights, MLPWeights, NormWeights, Weights

# hidden activations of more rows than this at once leave the processor's cache
_MLP_ROWS = 1024


def rms_norm(x: Float[Tensor, "*rows d_in"], gain: Float[Tensor, " d_in"] | None, eps: float) -> Float[Tensor, "*rows d_in"]:
    """Root-mean-square norm (Zhang & Sennrich 2019, arXiv 1910.07467)."""
    if x.dtype in (torch.float32, torch.float64):
        return F.rms_norm(x, (x.shape[-1],), gain, eps)
    # float32 inside: in bfloat16 the mean of squares loses the small reader inputs that a search compares
    return F.rms_norm(x.float(), (x.shape[-1],), None if gain is None else gain.float(), eps).to(x.dtype)


def layer_norm(x: Float[Tensor, "*rows d_model"], weights: NormWeights, eps: float) -> Float[Tensor, "*rows d_model"]:
    """Layer norm (Ba et al. 2016, arXiv 1607.06450)."""
    return F.layer_norm(x, (x.shape[-1],), weights.gain, weights.bias, eps)


def normalize(x: Float[Tensor, "*rows d_model"], norm: Norm, weights: NormWeights) -> Float[Tensor, "*rows d_model"]:
    """The model's norm, whichever it is."""
    match norm:
        case LayerNorm(eps):
            return layer_norm(x, weights, eps)
        case RMSNorm(eps):
            return rms_norm(x, weights.gain, eps)
        case NoNorm():
            return x


def activate(x: Float[Tensor, "*rows"], activation: Activation, inplace: bool = False) -> Float[Tensor, "*rows"]:
    """The MLP's nonlinearity; ``inplace`` may overwrite ``x``."""
    match activation:
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "relu":
            return F.relu(x, inplace)
        case "silu":
            return F.silu(x, inplace)


@dataclass(frozen=True, slots=True)
class Nonlinear:
    """The nonlinear functions of a decoder's layers, except softmax and soft caps.

    Methods with their own gradient rules pass functions with the same values and other gradients.

    Args:
        norm: in place of ``normalize``.
        activate: in place of ``activate``.
        gate: product of a gated MLP's activations and the neurons' inputs; without gradients it is the plain one.
    """

    norm: Callable[[Tensor, Norm, NormWeights], Tensor] = normalize
    activate: Callable[[Tensor, Activation, bool], Tensor] = activate
    gate: Callable[[Tensor, Tensor], Tensor] = torch.mul


AS_IT_IS = Nonlinear()


def rotate(
    x: Float[Tensor, "*rows pos d_head"], positions: Int[Tensor, "*pos"], rotary: Rotary | None
) -> Float[Tensor, "*rows pos d_head"]:
    """Turn queries or keys by their positions; dimensions past the rotated ones pass unchanged.

    Args:
        x: vectors; the last axes match ``positions`` and the head's width.
        positions: token positions, of any shape that broadcasts against ``x`` without its last axis.
        rotary: None leaves ``x`` as it is.
    """
    if rotary is None:
        return x
    wide = x.dtype if x.dtype == torch.float64 else torch.float32
    frequencies = torch.tensor(rotary.inverse_frequencies, dtype=wide, device=x.device)
    angles = positions[..., None].to(wide) * frequencies
    cos, sin = (angles.cos() * rotary.scaling).to(x.dtype), (angles.sin() * rotary.scaling).to(x.dtype)
    half = len(rotary.inverse_frequencies)
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def soft_cap(x: Float[Tensor, "*rows"], cap: float | None) -> Float[Tensor, "*rows"]:
    """Smoothly limit to (-cap, cap): cap · tanh(x / cap)."""
    return x if cap is None else cap * torch.tanh(x / cap)


def embed(config: TransformerConfig, weights: Weights, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
    """Token embeddings, plus learned positions where the model has them."""
    return embed_tokens(config, weights, tokens) + embed_positions(weights, tokens)


def embed_tokens(
    config: TransformerConfig, weights: Weights, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_model"]:
    """The token part of the embedding."""
    embedded = weights.W_E[tokens]
    # the factor is rounded to the model's dtype first, as Gemma's own code does
    return embedded if config.embed_scale == 1.0 else embedded * torch.tensor(config.embed_scale, dtype=embedded.dtype)


def embed_positions(weights: Weights, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
    """The position part of the embedding; zeros for models without learned positions."""
    if weights.W_pos is None:
        return weights.W_E.new_zeros(*tokens.shape, weights.W_E.shape[1])
    return weights.W_pos[: tokens.shape[1]].expand(*tokens.shape, -1)


def finish_heads(
    x: Float[Tensor, "*rows pos d_head"],
    bias: Float[Tensor, "... d_head"] | None,
    gain: Float[Tensor, " d_head"] | None,
    positions: Int[Tensor, "*pos"],
    rotary: Rotary | None,
    eps: float,
    nonlinear: Nonlinear = AS_IT_IS,
) -> Float[Tensor, "*rows pos d_head"]:
    """Queries or keys from their projections: bias, per-head norm if there is one, rotary positions.

    Args:
        x: projections.
        bias: broadcastable to ``x`` (heads' biases with the axes between already unsqueezed).
        gain: of the per-head norm, or None where the model has none.
    """
    x = x if bias is None else x + bias
    x = x if gain is None else nonlinear.norm(x, RMSNorm(eps), NormWeights(gain))
    return rotate(x, positions, rotary)


def attention_mask(
    queries: Int[Tensor, "*query"], keys: Int[Tensor, "*key"], config: TransformerConfig, layer: int
) -> Bool[Tensor, "*query key"]:
    """A mask of the keys that each query sees: no later ones, and only the latest within the layer's window.

    If attention is not causal, a query sees all keys.
    """
    distance = queries[..., None] - keys
    window = config.windows[layer]
    if not config.causal:
        return torch.ones_like(distance, dtype=torch.bool)
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def attention_pattern(
    scores: Float[Tensor, "*rows query key"], mask: Bool[Tensor, "*query key"], config: TransformerConfig
) -> Float[Tensor, "*rows query key"]:
    """Softmax of scaled, soft-capped, masked query-key products."""
    scores = soft_cap(scores * config.attention_scale, config.attention_softcap)
    return scores.masked_fill(~mask, float("-inf")).softmax(-1)


def neurons(
    config: TransformerConfig, weights: MLPWeights, x: Float[Tensor, "*rows d_model"], nonlinear: Nonlinear = AS_IT_IS
) -> Float[Tensor, "*rows d_mlp"]:
    """The MLP's hidden activations on normalised inputs: what each neuron multiplies its output row with."""
    read = F.linear(x, weights.W_in, weights.b_in)
    gate = None if weights.W_gate is None else F.linear(x, weights.W_gate, weights.b_gate)
    return fire(config, read, gate, nonlinear)


def fire(
    config: TransformerConfig,
    read: Float[Tensor, "*rows"],
    gate: Float[Tensor, "*rows"] | None,
    nonlinear: Nonlinear = AS_IT_IS,
) -> Float[Tensor, "*rows"]:
    """Neurons' activations from what they read and, in gated MLPs, from what their gates read; may overwrite both."""
    # without gradients in place: fresh memory costs more than the arithmetic
    inplace = not torch.is_grad_enabled()
    if gate is None:
        return nonlinear.activate(read, config.activation, inplace)
    gate = nonlinear.activate(gate, config.activation, inplace)
    return gate.mul_(read) if inplace else nonlinear.gate(gate, read)


def mlp(
    config: TransformerConfig, weights: MLPWeights, x: Float[Tensor, "*rows d_model"], nonlinear: Nonlinear = AS_IT_IS
) -> Float[Tensor, "*rows d_model"]:
    """The MLP on normalised inputs, before any post-norm."""
    flat = x.flatten(0, -2)
    if torch.is_grad_enabled() or len(flat) <= _MLP_ROWS:
        written = neurons(config, weights, flat, nonlinear) @ weights.W_out
    else:
        written = torch.empty_like(flat)
        for rows, out in zip(flat.split(_MLP_ROWS), written.split(_MLP_ROWS), strict=True):
            torch.mm(neurons(config, weights, rows, nonlinear), weights.W_out, out=out)
    written = written.view_as(x)
    return written if weights.b_out is None else written + weights.b_out


def unembed(
    config: TransformerConfig,
    weights: Weights,
    x: Float[Tensor, "*rows d_model"],
    columns: Int[Tensor, " column"] | None = None,
    nonlinear: Nonlinear = AS_IT_IS,
) -> Float[Tensor, "*rows vocab"]:
    """Logits of the last residual stream, all of them or only the tokens in ``columns``."""
    x = nonlinear.norm(x, config.norm, weights.final_norm)
    W_U = weights.W_U if columns is None else weights.W_U[columns]
    b_U = weights.b_U if columns is None or weights.b_U is None else weights.b_U[columns]
    return soft_cap(F.linear(x, W_U, b_U), config.logit_softcap)


def norm_eps(norm: Norm) -> float:
    """The epsilon of a norm, 0 where there is none."""
    return 0.0 if isinstance(norm, NoNorm) else norm.eps


@dataclass(frozen=True, eq=False)
class Routing:
    """The experts of each row.

    Args:
        experts: numbers of the chosen experts, larger probability first.
        shares: factor on each chosen expert's output.
    """

    experts: Int[Tensor, "row top"]
    shares: Float[Tensor, "row top"]

    def rows_of(self, expert: int) -> tuple[Int[Tensor, " routed"], Float[Tensor, "routed 1"]]:
        """The rows that go to an expert, and its share of each."""
        rows, place = (self.experts == expert).nonzero(as_tuple=True)
        return rows, self.shares[rows, place, None]


def route(experts: Experts, weights: MixtureWeights, x: Float[Tensor, "row d_model"]) -> Routing:
    """Choose experts for normalised inputs."""
    logits = F.linear(x, weights.W_router)
    # probabilities in float32 at least: in bfloat16 few values are left between 0 and 1
    wide = logits if x.dtype == torch.float64 else logits.float()
    chosen = torch.sort(wide.detach(), dim=-1, descending=True, stable=True).indices[:, : experts.top]
    shares = wide.softmax(-1).gather(-1, chosen)
    shares = shares / shares.sum(-1, keepdim=True) if experts.normalised else shares
    return Routing(chosen, shares.to(x.dtype))


def mixture(
    config: TransformerConfig, weights: MixtureWeights, x: Float[Tensor, "*rows d_model"], nonlinear: Nonlinear = AS_IT_IS
) -> Float[Tensor, "*rows d_model"]:
    """A mixture of experts on normalised inputs, each expert on the rows that are routed to it alone."""
    assert config.experts is not None
    flat = x.flatten(0, -2)
    routing, written = route(config.experts, weights, flat), torch.zeros_like(flat)
    for expert in routing.experts.unique().tolist():
        rows, share = routing.rows_of(expert)
        written.index_add_(0, rows, nonlinear.gate(share, mlp(config, weights.experts[expert], flat[rows], nonlinear)))
    shared = shared_expert(config, weights, flat, nonlinear)
    written = written if shared is None else written + shared
    return written.view_as(x)


def shared_expert(
    config: TransformerConfig, weights: MixtureWeights, x: Float[Tensor, "row d_model"], nonlinear: Nonlinear = AS_IT_IS
) -> Float[Tensor, "row d_model"] | None:
    """The shared expert's output on normalised inputs; None if there is no shared expert."""
    if weights.shared is None or weights.W_shared is None:
        return None
    gate = F.linear(x, weights.W_shared[None]).sigmoid()
    return nonlinear.gate(gate, mlp(config, weights.shared, x, nonlinear))
