"""A mixture of experts in parts: a router and experts, each with its own input.

    g = the router's shares for its own input (``model/components.py``), 0 for experts that are not chosen
    expert e writes g_e f_e(norm(x_e)),   the shared expert writes σ(W_shared · norm(x_s)) f_shared(norm(x_s))

The router writes nothing: an edge into it acts through the shares of all experts. An expert runs only at positions where
its share is not zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.model.components import AS_IT_IS, Nonlinear, mlp, normalize, route, shared_expert
from subcircuit.model.transformer import Transformer
from subcircuit.model.weights import MixtureWeights
from subcircuit.units.gradients import GRADIENTS, Rules, norm_pull_back, pull_back
from subcircuit.units.mlp import FeedForwardUnit
from subcircuit.units.nodes import Expert, Reader, RouterInput
from subcircuit.units.unit import CleanUnit, Inputs, PointwiseState, Reaches, Since, UnitRun, UnitState, Writes, in_trials


@dataclass(frozen=True)
class ExpertsUnit(FeedForwardUnit):
    """A layer's mixture of experts.

    Args:
        n: number of experts, without the shared one, which runs at all positions.
        shared: the mixture has a shared expert.
    """

    n: int
    shared: bool

    @property
    def level(self) -> str:
        """The level ``expert``."""
        return "expert"

    @cached_property
    def writers(self) -> tuple[Expert, ...]:
        """The experts, the shared one last."""
        routed = tuple(Expert(self.layer, e) for e in range(self.n))
        return (*routed, Expert(self.layer, None)) if self.shared else routed

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """The router, and every expert."""
        return (RouterInput(self.layer), *self.writers)

    @cached_property
    def feeds(self) -> tuple[tuple[int, ...], ...]:
        """The router feeds the experts that it chooses among; an expert's input feeds that expert."""
        return (tuple(range(self.n)), *((e,) for e in range(len(self.writers))))

    # ---- computation ---------------------------------------------------------------------------------------------------

    def writes(self, model: Transformer, inputs: Float[Tensor, "reader *rows d_model"]) -> Float[Tensor, "writer *rows d_model"]:
        """The value of every expert for its own input, times the share that the router computes from the router's input."""
        router, *experts = normed(model, self.layer, inputs)
        return self._mixed(model, router, experts)

    def run(self, model: Transformer, stream: Float[Tensor, "batch pos d_model"]) -> UnitRun:
        """The mixture's part of a plain run; the stream is normalised once for all experts."""
        x = normed(model, self.layer, stream)
        return UnitRun(self._mixed(model, x, [x] * len(self.writers)))

    def gradients(
        self,
        model: Transformer,
        stream: Float[Tensor, "batch pos d_model"],
        after: Float[Tensor, "batch pos d_model"],
        rules: Rules = GRADIENTS,
    ) -> Float[Tensor, "reader batch pos d_model"]:
        """Gradients at the router and the experts. The choice of experts is held fixed."""

        def written(router: Tensor, *experts: Tensor) -> Float[Tensor, "batch pos d_model"]:
            return self._mixed(model, router, experts, rules.nonlinear).sum(0)

        norm = model.weights.layers[self.layer].mlp_norm
        assert norm is not None
        x = normed(model, self.layer, stream)
        at_normed = torch.stack(pull_back(written, (x,) * len(self.readers), after))
        return norm_pull_back(model.config.norm, norm, stream, at_normed, rules.frozen_norms)

    def _mixed(
        self,
        model: Transformer,
        router: Float[Tensor, "*rows d_model"],
        experts: Sequence[Float[Tensor, "*rows d_model"]],
        nonlinear: Nonlinear = AS_IT_IS,
    ) -> Float[Tensor, "writer *rows d_model"]:
        """The values of all experts for normalised inputs."""
        given = shares(model, self.layer, router)
        return torch.stack(
            [
                expert_writes(model, self.layer, e, x, given[..., e.expert] if e.expert is not None else None, nonlinear)
                for e, x in zip(self.writers, experts, strict=True)
            ]
        )

    # ---- the exact engine ------------------------------------------------------------------------------------------------

    def open(self, clean: CleanUnit, reach: Reaches, inputs: Inputs) -> tuple[UnitState, Writes]:
        """The live experts, and the router if any of its experts is live."""
        return ExpertsState(self, clean, reach, inputs).refresh(inputs)


@dataclass(frozen=True, eq=False)
class ExpertsState(PointwiseState):
    """Live experts. Each runs only at the positions that the router sends to it."""

    unit: ExpertsUnit

    def recompute(self, inputs: Inputs, since: Since | None = None) -> Writes:
        """New values of the experts with changed inputs; of all but the shared expert if the router's input changed."""
        model, layer, outs = self.clean.model, self.unit.layer, dict[int, Tensor]()

        def read(reader: int) -> Float[Tensor, "trial row d_model"]:
            return normed(model, layer, in_trials(self.inputs, inputs, reader, since))

        given = shares(model, layer, read(0)) if 0 in self.inputs else None
        for writer in self.reach:
            number = self.unit.writers[writer].expert
            if 1 + writer in inputs or (0 in inputs and number is not None):
                share = None
                if given is not None and number is not None:
                    have, want = self.unit.reader_reach(0, self.reach), self.reach[writer]
                    share = self.clean.rows.take(given[..., number, None], have, want)[..., 0]
                outs[writer] = expert_writes(model, layer, self.unit.writers[writer], read(1 + writer), share)
        return outs


def mixture_weights(model: Transformer, layer: int) -> MixtureWeights:
    """The weights of a layer's MLP, which must be a mixture of experts."""
    weights = model.weights.layers[layer].mlp
    assert isinstance(weights, MixtureWeights)
    return weights


def normed(model: Transformer, layer: int, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """The normalised input of a layer's router or experts."""
    norm = model.weights.layers[layer].mlp_norm
    assert norm is not None
    return normalize(x, model.config.norm, norm)


def shares(model: Transformer, layer: int, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows expert"]:
    """The factor by which the router multiplies each expert's output, for normalised inputs."""
    experts, flat = model.config.experts, x.flatten(0, -2)
    assert experts is not None
    routing = route(experts, mixture_weights(model, layer), flat)
    of_all = routing.shares.new_zeros(len(flat), experts.n).scatter(1, routing.experts, routing.shares)
    return of_all.view(*x.shape[:-1], experts.n)


def expert_writes(
    model: Transformer,
    layer: int,
    expert: Expert,
    x: Float[Tensor, "*#rows d_model"],
    share: Float[Tensor, "*#rows"] | None,
    nonlinear: Nonlinear = AS_IT_IS,
) -> Float[Tensor, "*rows d_model"]:
    """The value of one expert for normalised inputs.

    Args:
        x, share: leading axes broadcast: one of the two may have size 1 where the other does not. The shared expert computes
            its own share; pass None.
    """
    weights = mixture_weights(model, layer)
    if expert.expert is None or share is None:
        written = shared_expert(model.config, weights, x.flatten(0, -2), nonlinear)
        assert written is not None
        return written.view_as(x)
    wanted = share != 0
    for axis, size in enumerate(x.shape[:-1]):
        wanted = wanted.any(axis, keepdim=True) if size == 1 else wanted
    places = wanted.expand(x.shape[:-1]).nonzero(as_tuple=True)
    out = torch.zeros_like(x).index_put(places, mlp(model.config, weights.experts[expert.expert], x[places], nonlinear))
    return nonlinear.gate(share[..., None], out)
