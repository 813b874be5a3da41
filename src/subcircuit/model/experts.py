"""Mixture-of-experts MLPs (Shazeer et al. 2017, arXiv 1701.06538): a router sends each position to a few small MLPs.

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

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.model.components import AS_IT_IS, Nonlinear, mlp
from subcircuit.model.config import Experts, TransformerConfig
from subcircuit.model.weights import MixtureWeights


@dataclass(frozen=True, eq=False)
class Routing:
    """Where each row goes.

    Args:
        experts: the chosen ones, those of larger probability first.
        shares: what each of them multiplies its output with.
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
    """What the expert of all positions writes for normalised inputs; None where there is none."""
    if weights.shared is None or weights.W_shared is None:
        return None
    gate = F.linear(x, weights.W_shared[None]).sigmoid()
    return nonlinear.gate(gate, mlp(config, weights.shared, x, nonlinear))
