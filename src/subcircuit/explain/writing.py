"""What components write, as tokens: their mean output through the final norm and the unembedding; and what neurons fire on.

The final norm's scale is frozen where it is in the model's run, so that what is written is linear in the output
(nostalgebraist 2020, "interpreting GPT: the logit lens"). Logits are compared with their mean over the vocabulary.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.explain.observe import Observation
from subcircuit.model.components import mlp, neurons, normalize
from subcircuit.model.config import LayerNorm, NoNorm, RMSNorm
from subcircuit.model.weights import MLPWeights
from subcircuit.units.gradients import norm_pull_back

_TOKENS = 5


@dataclass(frozen=True)
class Written:
    """Token ids whose logits are raised and lowered most, from the largest change."""

    up: tuple[int, ...]
    down: tuple[int, ...]


@dataclass(frozen=True)
class NeuronAtWork:
    """One neuron of an MLP on the task's prompts.

    Args:
        neuron: its number.
        effect: first-order effect of corrupting it, in logits (see ``observe.py``).
        fires_on: the tokens at which its activation is largest, from the largest.
        written: by its output row, times the sign of its mean activation there.
    """

    neuron: int
    effect: float
    fires_on: tuple[int, ...]
    written: Written


def written(observed: Observation, writers: list[int], role: str) -> Written:
    """What some writers together write at the positions of a role, on average over prompts."""
    return as_tokens(observed, observed.values[writers].sum(0), role)


@torch.no_grad()
def as_tokens(observed: Observation, values: Float[Tensor, "batch pos d_model"], role: str) -> Written:
    """The mean of vectors at the positions of a role, as tokens."""
    here = observed.rows(role) > 0
    return _extremes(observed, _through_frozen_norm(observed, values[here], observed.streams[0][-1][here]).mean(0))


@torch.no_grad()
def neurons_at_work(observed: Observation, layer: int, count: int = 3, only: int | None = None) -> tuple[NeuronAtWork, ...]:
    """The neurons of an MLP whose corruption matters most, from the largest effect on; none of mixtures of experts.

    Args:
        only: this neuron instead.
    """
    model, task = observed.model, observed.task
    weights = model.weights.layers[layer]
    unit = observed.graph.unit_index[f"m{layer}"]
    assert weights.mlp_norm is not None
    if not isinstance(weights.mlp, MLPWeights):
        return ()
    normed = [normalize(streams[unit], model.config.norm, weights.mlp_norm) for streams in observed.streams]
    at_written = observed.at_mlps[layer]
    if weights.mlp_post_norm is not None:
        raw = mlp(model.config, weights.mlp, normed[0])
        at_written = norm_pull_back(model.config.norm, weights.mlp_post_norm, raw, at_written)
    clean, corrupted = [neurons(model.config, weights.mlp, x) for x in normed]
    effects = ((clean - corrupted) * (at_written.to(clean.dtype) @ weights.mlp.W_out.T)).sum((0, 1))
    within = torch.arange(task.clean.ids.shape[1], device=model.device) < task.clean.lengths[:, None]
    chosen = effects.abs().topk(min(count, len(effects))).indices.tolist() if only is None else [only]
    return tuple(_at_work(observed, layer, n, float(effects[n]), clean[..., n].masked_fill(~within, 0)) for n in chosen)


def _at_work(
    observed: Observation, layer: int, neuron: int, effect: float, activation: Float[Tensor, "batch pos"]
) -> NeuronAtWork:
    weights = observed.model.weights.layers[layer]
    assert isinstance(weights.mlp, MLPWeights)
    # gated neurons fire with either sign: the stronger counts
    sign = 1 if float(activation.max()) >= -float(activation.min()) else -1
    order = (sign * activation).flatten().argsort(descending=True)
    fires_on = tuple(dict.fromkeys(observed.task.clean.ids.flatten()[order[: 4 * _TOKENS]].tolist()))[:_TOKENS]
    row, last = sign * weights.mlp.W_out[neuron], observed.streams[0][-1]
    row = row if weights.mlp_post_norm is None or weights.mlp_post_norm.gain is None else row * weights.mlp_post_norm.gain
    at = observed.task.answers.rows(last)[:1]
    return NeuronAtWork(neuron, effect, fires_on, _extremes(observed, _through_frozen_norm(observed, row[None], at)[0]))


def _through_frozen_norm(
    observed: Observation, values: Float[Tensor, "row d_model"], last: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row d_model"]:
    """What the final norm makes of a share of the last stream, its scale frozen."""
    gain = observed.model.weights.final_norm.gain
    match observed.model.config.norm:
        case NoNorm():
            return values
        case LayerNorm(eps):
            values = values - values.mean(-1, keepdim=True)
            scale = torch.rsqrt(last.float().var(-1, keepdim=True, correction=0) + eps)
        case RMSNorm(eps):
            scale = torch.rsqrt(last.float().square().mean(-1, keepdim=True) + eps)
    values = (values.float() * scale).to(values.dtype)
    return values if gain is None else values * gain


def _extremes(observed: Observation, direction: Float[Tensor, " d_model"]) -> Written:
    logits = observed.model.weights.W_U @ direction
    count = min(_TOKENS, len(logits) // 2)
    up, down = (tuple((sign * logits).topk(count).indices.tolist()) for sign in (1, -1))
    return Written(up, down)
