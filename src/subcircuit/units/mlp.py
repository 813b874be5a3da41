"""An MLP as one node (plain or a mixture of experts), or as neurons with an input each.

    a_n = act(W_gate[n] · norm(x_n)) · (W_in[n] · norm(x_n)),        neuron n writes a_n W_out[n]

(without the gate if the family has none). ``b_out`` belongs to no neuron: it is added to the stream with the layer and
never ablated. Under a post-norm a neuron's write is its share, as a head's is (``model/attention.py``).

Cost: if the inputs differ, every neuron normalises its own: neurons × d_model numbers per row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from subcircuit.model.attention import post_norm_scale
from subcircuit.model.components import fire, neurons, normalize
from subcircuit.model.transformer import Transformer, feed_forward
from subcircuit.model.weights import MLPWeights, NormWeights
from subcircuit.units.gradients import GRADIENTS, Rules, norm_pull_back, pull_back, widened
from subcircuit.units.nodes import MLP, Neuron
from subcircuit.units.rows import REACHES
from subcircuit.units.unit import CleanUnit, Inputs, Reaches, Since, Unit, UnitRun, UnitState, Writes, as_they_stand, begun


@dataclass(frozen=True)
class FeedForwardUnit(Unit):
    """A layer's MLP at any level."""

    kind = "mlp"

    @property
    def name(self) -> str:
        """The name, such as ``m5``."""
        return f"m{self.layer}"

    @property
    def drawn(self) -> "MLPUnit":
        """The whole MLP as one node."""
        return MLPUnit(self.layer, self.clock)

    def adds(self, model: Transformer, stream: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The MLP's output in the plain forward pass."""
        return feed_forward(model, self.layer, stream)


@dataclass(frozen=True)
class MLPUnit(FeedForwardUnit):
    """A layer's MLP as one reader and one writer."""

    @property
    def level(self) -> str:
        """The level ``block``."""
        return "block"

    @cached_property
    def readers(self) -> tuple[MLP, ...]:
        """The MLP."""
        return (MLP(self.layer),)

    @cached_property
    def writers(self) -> tuple[MLP, ...]:
        """The MLP."""
        return (MLP(self.layer),)

    @cached_property
    def feeds(self) -> tuple[tuple[int, ...], ...]:
        """The MLP's reader feeds the MLP's writer."""
        return ((0,),)

    def writes(self, model: Transformer, inputs: Float[Tensor, "reader *rows d_model"]) -> Float[Tensor, "writer *rows d_model"]:
        """The MLP's whole output, its biases included."""
        return feed_forward(model, self.layer, inputs)

    def run(self, model: Transformer, stream: Float[Tensor, "batch pos d_model"]) -> UnitRun:
        """The MLP's part of a plain run, with one writer."""
        return UnitRun(feed_forward(model, self.layer, stream)[None])

    def gradients(
        self,
        model: Transformer,
        stream: Float[Tensor, "batch pos d_model"],
        after: Float[Tensor, "batch pos d_model"],
        rules: Rules = GRADIENTS,
    ) -> Float[Tensor, "reader batch pos d_model"]:
        """The gradient at the MLP's input, by autograd."""
        return widened(pull_back(lambda x: feed_forward(model, self.layer, x, rules.nonlinear), (stream,), after)[0])[None]


# every neuron has its own input: the inputs of a whole MLP's neurons would be the largest tensor of a run
_AT_ONCE = 128


@dataclass(frozen=True)
class NeuronsUnit(FeedForwardUnit):
    """Neurons of a layer's MLP.

    Args:
        n: number of neurons.
        start: number of the first neuron.
    """

    n: int
    start: int = 0

    @property
    def level(self) -> str:
        """The level ``neuron``."""
        return "neuron"

    @cached_property
    def readers(self) -> tuple[Neuron, ...]:
        """Every neuron."""
        return tuple(Neuron(self.layer, self.start + n) for n in range(self.n))

    @cached_property
    def writers(self) -> tuple[Neuron, ...]:
        """Every neuron."""
        return self.readers

    @cached_property
    def feeds(self) -> tuple[tuple[int, ...], ...]:
        """Each neuron's input feeds that neuron."""
        return tuple((n,) for n in range(self.n))

    @property
    def pieces(self) -> "tuple[NeuronsUnit, ...]":
        """Units of a limited number of neurons each; under a shared post-norm all neurons stay in one unit."""
        if self.coupled:
            return (self,)
        starts = range(0, self.n, _AT_ONCE)
        return tuple(replace(self, n=min(_AT_ONCE, self.n - start), start=self.start + start) for start in starts)

    # ---- computation ---------------------------------------------------------------------------------------------------

    def writes(self, model: Transformer, inputs: Float[Tensor, "reader *rows d_model"]) -> Float[Tensor, "writer *rows d_model"]:
        """The value of every neuron for its own input."""
        return self._shares(model, self.fire(model, inputs, slice(self.start, self.start + self.n)))

    def bias(self, model: Transformer) -> Float[Tensor, " d_model"] | None:
        """The output bias ``b_out``."""
        return mlp_weights(model, self.layer)[0].b_out

    def run(self, model: Transformer, stream: Float[Tensor, "batch pos d_model"]) -> UnitRun:
        """The neurons' part of a plain run, computed in one product."""
        weights, norm = mlp_weights(model, self.layer)
        activation = neurons(model.config, weights, normalize(stream, model.config.norm, norm))
        return UnitRun(self._shares(model, activation.movedim(-1, 0)))

    def gradients(
        self,
        model: Transformer,
        stream: Float[Tensor, "batch pos d_model"],
        after: Float[Tensor, "batch pos d_model"],
        rules: Rules = GRADIENTS,
    ) -> Float[Tensor, "reader batch pos d_model"]:
        """Gradients at each neuron's input: its pre-activation gradients times its rows of ``W_in`` and ``W_gate``."""
        weights, norm = mlp_weights(model, self.layer)
        x = normalize(stream, model.config.norm, norm)
        maps = [(weights.W_in, weights.b_in)] + ([] if weights.W_gate is None else [(weights.W_gate, weights.b_gate)])
        read = [F.linear(x, W, b) for W, b in maps]

        def written(read: Tensor, gate: Tensor | None = None) -> Float[Tensor, "batch pos d_model"]:
            out = fire(model.config, read, gate, rules.nonlinear) @ weights.W_out
            post = model.weights.layers[self.layer].mlp_post_norm
            return out if post is None else rules.nonlinear.norm(out, model.config.norm, post)

        pulled = zip(pull_back(written, read, after), maps, strict=True)
        at_normed = reduce(torch.add, (torch.einsum("bpn,nd->nbpd", gradient, W) for gradient, (W, _) in pulled))
        return norm_pull_back(model.config.norm, norm, stream, at_normed, rules.frozen_norms)

    def fire(
        self, model: Transformer, x: Float[Tensor, "neuron *rows d_model"], which: slice | list[int]
    ) -> Float[Tensor, " neuron *rows"]:
        """Activations of some neurons, each for its own input: the factors of their rows of ``W_out``."""
        w, norm = mlp_weights(model, self.layer)
        normed = normalize(x, model.config.norm, norm)
        gate = None if w.W_gate is None else _dot(normed, w.W_gate, w.b_gate, which)
        return fire(model.config, _dot(normed, w.W_in, w.b_in, which), gate)

    def write_out(
        self, model: Transformer, activation: Float[Tensor, " neuron *rows"], which: slice | list[int]
    ) -> Float[Tensor, "neuron *rows d_model"]:
        """Values of some neurons for their activations, before any post-norm."""
        W_out = mlp_weights(model, self.layer)[0].W_out[which]
        return activation[..., None] * W_out.view(len(W_out), *[1] * (activation.ndim - 1), -1)

    def scale(self, model: Transformer, total: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"] | None:
        """The factor that a post-norm applies to each neuron's value, given the sum of all neurons' values; None without post-norms."""
        post = model.weights.layers[self.layer].mlp_post_norm
        assert post is None or mlp_weights(model, self.layer)[0].b_out is None, "families with post-norms have no biases"
        return post_norm_scale(model, post, total)

    def _shares(self, model: Transformer, activation: Float[Tensor, " neuron *rows"]) -> Float[Tensor, "neuron *rows d_model"]:
        """Values of the unit's neurons for their activations, after any post-norm."""
        writes = self.write_out(model, activation, slice(self.start, self.start + self.n))
        scale = self.scale(model, writes.sum(0)) if self.coupled else None
        return writes if scale is None else writes * scale

    # ---- the exact engine ------------------------------------------------------------------------------------------------

    def open(self, clean: CleanUnit, reach: Reaches, inputs: Inputs) -> tuple[UnitState, Writes]:
        """The live neurons with their activations, and their writes."""
        return NeuronsState(self, clean, reach, {}).refresh(inputs)


@dataclass(frozen=True, eq=False)
class NeuronsState(UnitState):
    """Live neurons.

    Args:
        fired: activations of each live neuron, at the rows where it matters.
    """

    unit: NeuronsUnit
    clean: CleanUnit
    reach: Reaches
    fired: Mapping[int, Tensor]

    def recompute(self, inputs: Inputs, since: Since | None = None) -> Writes:
        """New values of the neurons that read changed inputs; of all neurons under a shared post-norm."""
        return self._writes(self._recomputed(inputs, since))

    def refresh(self, inputs: Inputs) -> tuple[UnitState, Writes]:
        """The state with the new activations, and the changed writes."""
        fresh = self._recomputed({reader: x[None] for reader, x in inputs.items()}, None)
        fired = {**self.fired, **{neuron: x[0] for neuron, x in fresh.items()}}
        return replace(self, fired=fired), as_they_stand(self._writes(fresh))

    def _recomputed(self, inputs: Inputs, since: Since | None) -> dict[int, Tensor]:
        """Activations of the neurons that read changed inputs; neurons that matter at the same rows are computed together."""
        fresh: dict[int, Tensor] = {}
        for reach in REACHES:
            mine = [neuron for neuron in sorted(inputs) if self.reach[neuron] == reach]
            if mine:
                fired = self.unit.fire(self.clean.model, torch.stack([inputs[neuron] for neuron in mine]), mine)
                fresh |= dict(zip(mine, fired, strict=True))
        if since is None:
            return fresh
        new = {neuron: begun(since, neuron, self.clean.rows.changed.flat.device)[:, None] for neuron in fresh}
        return {neuron: torch.where(new[neuron], fired, self.fired[neuron]) for neuron, fired in fresh.items()}

    def _writes(self, fresh: Mapping[int, Tensor]) -> Writes:
        """Values of the writers that change with these neurons' activations."""
        model, outs = self.clean.model, dict[int, Tensor]()
        for neuron in self.reach if self.unit.coupled else sorted(fresh):
            fired = fresh[neuron] if neuron in fresh else self.fired[neuron][None]
            outs[neuron] = self.unit.write_out(model, fired[None], [neuron])[0]
        scale = self.unit.scale(model, reduce(torch.add, outs.values())) if self.unit.coupled else None
        return outs if scale is None else {neuron: out * scale for neuron, out in outs.items()}


def mlp_weights(model: Transformer, layer: int) -> tuple[MLPWeights, NormWeights]:
    """The weights of a layer's MLP, which must be resolvable into neurons, and of the norm before it."""
    weights = model.weights.layers[layer]
    assert isinstance(weights.mlp, MLPWeights) and weights.mlp_norm is not None
    return weights.mlp, weights.mlp_norm


def _dot(
    x: Float[Tensor, "neuron *rows d_model"],
    W: Float[Tensor, "d_mlp d_model"],
    b: Float[Tensor, " d_mlp"] | None,
    which: slice | list[int],
) -> Float[Tensor, " neuron *rows"]:
    read = torch.bmm(x.flatten(1, -2), W[which][..., None]).view(x.shape[:-1])
    return read if b is None else read + b[which].view(-1, *[1] * (read.ndim - 1))
