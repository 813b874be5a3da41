"""What a cut edge carries instead of its writer's value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.plain_run import writer_values
from subcircuit.errors import GraphError, SettingsError, UnknownNameError
from subcircuit.graph import Graph
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer


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


@dataclass(frozen=True, slots=True, eq=False)
class Optimal:
    """One constant vector a writer, learned to make ablated runs as good as they can be (Li & Janson 2024, arXiv 2409.09951).

    Args:
        constants: of the writers of one graph, as ``learn_optimal`` returns them.
    """

    constants: Float[Tensor, "writer d_model"]

    def __repr__(self) -> str:
        return f"Optimal(constants of {len(self.constants):,} writers)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Optimal) and torch.equal(self.constants.cpu().double(), other.constants.cpu().double())

    def __hash__(self) -> int:
        return hash(tuple(self.constants[:, 0].tolist()))


Ablation: TypeAlias = Resample | Zero | Mean | MeanByPosition | Optimal

AblatedBatch: TypeAlias = Callable[[Tokens, int], Float[Tensor, "writer batch pos d_model"]]

# those that a name alone tells; the constants of an optimal ablation are learned
OPTIMAL = "optimal"
ABLATIONS: dict[str, Ablation] = {
    "resample": Resample(),
    "zero": Zero(),
    "mean": Mean(),
    "mean-by-position": MeanByPosition(),
}


def ablation_named(name: str) -> Ablation:
    """The ablation of this name.

    Raises:
        SettingsError: "optimal", whose constants have to be learned first.
        UnknownNameError: there is none; the nearest names are suggested.
    """
    check_ablation(name)
    if name == OPTIMAL:
        raise SettingsError("the constants of an optimal ablation are learned: call learn_optimal and pass what it returns.")
    return ABLATIONS[name]


def check_ablation(name: str) -> None:
    """There is an ablation of this name.

    Raises:
        UnknownNameError: there is none; the nearest names are suggested.
    """
    if name not in (*ABLATIONS, OPTIMAL):
        raise UnknownNameError("ablation", name, (*ABLATIONS, OPTIMAL))


def name_of(ablation: Ablation) -> str:
    """The name under which an ablation is recorded."""
    return OPTIMAL if isinstance(ablation, Optimal) else next(name for name, known in ABLATIONS.items() if known == ablation)


def ablated_values(
    model: Transformer, graph: Graph, corrupted: Tokens, ablation: Ablation
) -> Float[Tensor, "writer batch pos d_model"]:
    """What every writer's cut edges carry, at every position of every prompt.

    Means are taken over the whole of ``corrupted``: pass all of a task's prompts, not a batch of them. Padding takes
    no part in them.

    Raises:
        GraphError: optimal constants of another graph.
    """
    if isinstance(ablation, Zero):
        return model.weights.W_E.new_zeros(len(graph.writers), *corrupted.ids.shape, model.config.d_model)
    if isinstance(ablation, Optimal):
        constants = _fitting(model, graph, ablation.constants)
        return constants[:, None, None].expand(-1, *corrupted.ids.shape, -1)
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
    if isinstance(ablation, Resample | Zero | Optimal):
        return lambda part, start: ablated_values(model, graph, part, ablation)
    everything = ablated_values(model, graph, corrupted, ablation)
    return lambda part, start: everything[:, start : start + len(part), : part.ids.shape[1]]


def _fitting(model: Transformer, graph: Graph, constants: Float[Tensor, "writer d_model"]) -> Float[Tensor, "writer d_model"]:
    expected = (len(graph.writers), model.config.d_model)
    if tuple(constants.shape) != expected:
        raise GraphError(
            f"optimal constants of shape {tuple(constants.shape)} do not fit {expected[0]} writers of width {expected[1]}: "
            "learn them for this model at this scope."
        )
    return constants.to(model.device, model.dtype)
