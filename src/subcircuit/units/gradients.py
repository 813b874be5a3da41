"""Rules for passing gradients through nonlinear functions, at a run of the whole model."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.model.components import AS_IT_IS, Nonlinear
from subcircuit.model.config import LayerNorm, NoNorm, Norm, RMSNorm
from subcircuit.model.weights import NormWeights


@dataclass(frozen=True, slots=True)
class Rules:
    """How gradients pass backwards; methods other than plain gradients change these rules.

    Args:
        nonlinear: the layers' nonlinear functions, through which gradients are taken.
        frozen_norms: norms' scales count as constants; ``nonlinear.norm`` must agree.
        dropped: a layer that passes no gradient back, as if it wrote constants; its readers' gradients are zero.
    """

    nonlinear: Nonlinear = AS_IT_IS
    frozen_norms: bool = False
    dropped: int | None = None


GRADIENTS = Rules()


def norm_pull_back(
    norm: Norm,
    weights: NormWeights,
    x: Float[Tensor, "*#rows d_model"],
    gradient: Float[Tensor, "*rows d_model"],
    frozen: bool = False,
) -> Float[Tensor, "*rows d_model"]:
    """Gradients with respect to a norm's input from gradients with respect to its output; many may share one input.

    With x̂ = s (x − mean x), or s x for RMSNorm, and c = gain ⊙ gradient: s (c − [mean c] − x̂ mean(c x̂)). Computed in
    float32 at least, like the norm itself.

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
    """Gradients with respect to a function's inputs from the gradient with respect to its output."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        output = function(*leaves)
    return torch.autograd.grad(output, leaves, gradient.to(output.dtype))


def widened(x: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """The values in float32 at least."""
    return x if x.dtype == torch.float64 else x.float()
