"""What a cut edge carries instead of its writer's value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.errors import UnknownNameError
from subcircuit.graph import Graph
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer
from subcircuit.run.values import writer_values


@dataclass(frozen=True, slots=True)
class Resample:
    """The writer's value in the run of the paired corrupted prompt ("interchange", "patching")."""


@dataclass(frozen=True, slots=True)
class Zero:
    """Nothing."""


@dataclass(frozen=True, slots=True)
class Mean:
    """The writer's mean over all examples and positions of the corrupted prompts: one vector a writer."""


@dataclass(frozen=True, slots=True)
class MeanByPosition:
    """The writer's mean at each position over the corrupted prompts that are long enough: one vector a writer and position."""


Ablation: TypeAlias = Resample | Zero | Mean | MeanByPosition

AblatedBatch: TypeAlias = Callable[[Tokens, int], Float[Tensor, "writer batch pos d_model"]]

ABLATIONS: dict[str, Ablation] = {
    "resample": Resample(),
    "zero": Zero(),
    "mean": Mean(),
    "mean-by-position": MeanByPosition(),
}


def ablation_named(name: str) -> Ablation:
    """The ablation of this name.

    Raises:
        UnknownNameError: there is none; the nearest names are suggested.
    """
    if name not in ABLATIONS:
        raise UnknownNameError("ablation", name, tuple(ABLATIONS))
    return ABLATIONS[name]


def name_of(ablation: Ablation) -> str:
    """The name under which an ablation is recorded."""
    return next(name for name, known in ABLATIONS.items() if known == ablation)


def ablated_values(
    model: Transformer, graph: Graph, corrupted: Tokens, ablation: Ablation
) -> Float[Tensor, "writer batch pos d_model"]:
    """What every writer's cut edges carry, at every position of every prompt.

    Means are taken over the whole of ``corrupted``: pass all of a task's prompts, not a batch of them. Padding takes
    no part in them.
    """
    if isinstance(ablation, Zero):
        return model.weights.W_E.new_zeros(len(graph.writers), *corrupted.ids.shape, model.config.d_model)
    values = writer_values(model, graph, corrupted)
    if isinstance(ablation, Resample):
        return values
    real = (torch.arange(values.shape[2], device=values.device) < corrupted.lengths[:, None]).to(values.dtype)
    weighted = values * real[..., None]
    match ablation:
        case Mean():
            mean = weighted.sum((1, 2), keepdim=True) / real.sum()
        case MeanByPosition():
            mean = weighted.sum(1, keepdim=True) / real.sum(0)[:, None]
    return mean.expand_as(values)


def ablated_by_batch(model: Transformer, graph: Graph, corrupted: Tokens, ablation: Ablation) -> AblatedBatch:
    """``ablated_values`` of a batch at a time, from its corrupted prompts and the number of the first of them.

    Values of all prompts at once would be the largest tensor of a run. Only means, which are over all prompts, need them.

    Args:
        corrupted: all of a task's corrupted prompts.
    """
    if isinstance(ablation, Resample | Zero):
        return lambda part, start: ablated_values(model, graph, part, ablation)
    everything = ablated_values(model, graph, corrupted, ablation)
    return lambda part, start: everything[:, start : start + len(part), : part.ids.shape[1]]
