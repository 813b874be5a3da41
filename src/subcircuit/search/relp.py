"""Relevance patching (Jafari, Eberle, Khakzar & Nanda 2025, arXiv 2508.21258): attribution by relevance, not by gradients.

    score(w → r) = (ablated(w) − clean(w)) · ρ(r)        [clean run]

ρ(r) is the relevance that layer-wise relevance propagation uses instead of dL/d input(r): a backward pass in which each
nonlinear part counts as the linear map that it is on the clean run.

- Norms (all of them: of readers, of queries and keys, of what a layer writes, the last one): the scale is a constant,
  y = s (x − mean x), or s x for RMSNorm, with s not differentiated (LN rule).
- Activations: act(x) = x · c with c = act(x)/x a constant (identity rule); at x = 0 its limit ½, for ReLU 0.
- Gated MLPs: a product passes half of its relevance to each factor (half rule). So does a mixture of experts: half to
  what an expert writes and half to its share of it, which goes on to the router by plain gradients of the softmax.
- Attention, values: the pattern is a constant (AH rule). That is the plain gradient of values, which pattern · values
  is linear in already.
- Attention, queries and keys: the plain gradient through softmax (and a soft cap), values being constants. The paper does not
  cover these, because its nodes are the outputs of layers. Without these gradients every edge into a query or a key would score
  zero, and so would every effect through a later head's attention. Both paths count in full because edges are cut one at a
  time: halving them would halve the effect of an edge into a value, which is known exactly. Relevance is therefore not
  conserved where queries, keys and values read the same input.
- The metric, and a soft cap on the logits: plain gradients.

The cost is that of ``eap``: two forward passes and one backward. Less noisy than gradients where norms and activations bend,
above all at large MLPs and early layers. Fails where attention saturates, as gradients do, and at the minimum of a divergence
from the model, which is refused. A frozen norm ignores that cutting a large edge rescales all other edges.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.model.components import Nonlinear, activate
from subcircuit.model.config import Activation, LayerNorm, NoNorm, Norm, RMSNorm
from subcircuit.model.weights import NormWeights
from subcircuit.search.attribution import Watch, attribute, check_gradient_at_clean
from subcircuit.search.journal import Journal
from subcircuit.search.method import FIRST_ORDER, ScoringMethod
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress
from subcircuit.units.gradients import Rules, widened


@dataclass(frozen=True)
class Relp(ScoringMethod):
    """Settings of relevance patching.

    Args:
        batch_size: examples at once; None chooses by memory. The result is the same.
    """

    name = "relp"
    description = "gradients by the rules of LRP (Jafari et al. 2025)"
    meaning = FIRST_ORDER

    batch_size: int | None = None

    def check(self, problem: Problem) -> None:
        """Raise the errors that ``search`` would raise for this problem."""
        check_gradient_at_clean(problem)

    def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        """First-order effects at the clean run, by relevance."""
        watch = Watch(self, 1, progress, journal)
        return attribute(problem, self.batch_size, lambda probe: [probe.contrast.streams], watch, RELEVANCE)


def frozen_norm(x: Float[Tensor, "*rows d_model"], norm: Norm, weights: NormWeights) -> Float[Tensor, "*rows d_model"]:
    """The model's norm as a linear map: its scale is a constant."""
    wide = widened(x)
    match norm:
        case NoNorm():
            return x
        case LayerNorm(eps):
            wide = wide - wide.mean(-1, keepdim=True)
        case RMSNorm(eps):
            pass
    scaled = (wide * torch.rsqrt(wide.detach().square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    scaled = scaled if weights.gain is None else scaled * weights.gain
    return scaled if weights.bias is None else scaled + weights.bias


def proportional(x: Float[Tensor, "*rows"], activation: Activation, inplace: bool = False) -> Float[Tensor, "*rows"]:
    """The activation as a multiple of its input: x · c, with c = act(x)/x a constant."""
    # just below zero ReLU's ratio is 0 and all others' is ½, their limit
    near = torch.where(x == 0, -torch.finfo(x.dtype).eps, x).detach()
    return x * (activate(near, activation) / near)


def half_each(one: Float[Tensor, "*#rows"], other: Float[Tensor, "*#rows"]) -> Float[Tensor, "*rows"]:
    """A product, half of whose gradient goes to each factor."""
    return (one * other.detach() + one.detach() * other) / 2


RELEVANCE = Rules(Nonlinear(frozen_norm, proportional, half_each), frozen_norms=True)
