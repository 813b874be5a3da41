"""Ablations: the value that a cut edge carries instead of its writer's value."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.plain_run import writer_values
from subcircuit.errors import GraphError, SettingsError, UnknownNameError
from subcircuit.graph import Graph
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer

OPTIMAL = "optimal"


class Ablation(ABC):
    """The value that a cut edge carries instead of its writer's value. A new ablation is a subclass with its own name and values."""

    name: ClassVar[str]
    """The ablation's name in records."""
    by_prompt: ClassVar[bool] = False
    """Whether the values for one prompt depend on that prompt alone, so that prompts can run in batches."""

    @abstractmethod
    def values(self, model: Transformer, graph: Graph, corrupted: Tokens) -> Float[Tensor, "writer batch pos d_model"]:
        """The values that every writer's cut edges carry, at every position of every prompt.

        Args:
            corrupted: the task's corrupted prompts. All of them are needed, or one batch if ``by_prompt``. Padding must not affect
                the values at real tokens.

        Raises:
            GraphError: the ablation belongs to another graph.
        """


@dataclass(frozen=True, slots=True)
class Resample(Ablation):
    """The writer's value in the run of the paired corrupted prompt ("interchange", "patching")."""

    name = "resample"
    by_prompt = True

    def values(self, model: Transformer, graph: Graph, corrupted: Tokens) -> Float[Tensor, "writer batch pos d_model"]:
        """The writers' values in the corrupted run."""
        return writer_values(model, graph, corrupted)


@dataclass(frozen=True, slots=True)
class Zero(Ablation):
    """Zero."""

    name = "zero"
    by_prompt = True

    def values(self, model: Transformer, graph: Graph, corrupted: Tokens) -> Float[Tensor, "writer batch pos d_model"]:
        """Zeros."""
        return model.weights.W_E.new_zeros(len(graph.writers), *corrupted.ids.shape, model.config.d_model)


@dataclass(frozen=True, slots=True)
class Mean(Ablation):
    """The writer's mean over all examples and positions of the corrupted prompts: one vector per writer."""

    name = "mean"

    def values(self, model: Transformer, graph: Graph, corrupted: Tokens) -> Float[Tensor, "writer batch pos d_model"]:
        """The mean, repeated at every prompt and position."""
        values, real = _real_values(model, graph, corrupted)
        return (values.sum((1, 2), keepdim=True) / real.sum()).expand_as(values)


@dataclass(frozen=True, slots=True)
class MeanByPosition(Ablation):
    """The writer's mean at each position over the corrupted prompts that are long enough: one vector per writer and position."""

    name = "mean-by-position"

    def values(self, model: Transformer, graph: Graph, corrupted: Tokens) -> Float[Tensor, "writer batch pos d_model"]:
        """The position's mean, repeated in every prompt."""
        values, real = _real_values(model, graph, corrupted)
        return (values.sum(1, keepdim=True) / real.sum(0)[:, None]).expand_as(values)


def _real_values(
    model: Transformer, graph: Graph, corrupted: Tokens
) -> tuple[Float[Tensor, "writer batch pos d_model"], Float[Tensor, "batch pos"]]:
    """Values of the corrupted run with zeros past each prompt's end, and a mask that is 1 within prompts and 0 elsewhere."""
    values = writer_values(model, graph, corrupted)
    real = (torch.arange(values.shape[2], device=values.device) < corrupted.lengths[:, None]).to(values.dtype)
    return values * real[..., None], real


@dataclass(frozen=True, slots=True, eq=False)
class Optimal(Ablation):
    """One constant vector per writer, learned to make ablated runs as good as possible (Li & Janson 2024, arXiv 2409.09951).

    Args:
        constants: one vector per writer of one graph, as returned by ``learn_optimal``.
    """

    constants: Float[Tensor, "writer d_model"]

    name = OPTIMAL
    by_prompt = True

    def __repr__(self) -> str:
        return f"Optimal(constants of {len(self.constants):,} writers)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Optimal) and torch.equal(self.constants.cpu().double(), other.constants.cpu().double())

    def __hash__(self) -> int:
        return hash(tuple(self.constants[:, 0].tolist()))

    def values(self, model: Transformer, graph: Graph, corrupted: Tokens) -> Float[Tensor, "writer batch pos d_model"]:
        """The constants, repeated at every prompt and position."""
        expected = (len(graph.writers), model.config.d_model)
        if tuple(self.constants.shape) != expected:
            raise GraphError(
                f"optimal constants of shape {tuple(self.constants.shape)} do not fit {expected[0]} writers of width {expected[1]}: "
                "learn them for this model at this scope."
            )
        constants = self.constants.to(model.device, model.dtype)
        return constants[:, None, None].expand(-1, *corrupted.ids.shape, -1)


AblatedBatch: TypeAlias = Callable[[Tokens, int], Float[Tensor, "writer batch pos d_model"]]

ABLATIONS: dict[str, Ablation] = {ablation.name: ablation for ablation in (Resample(), Zero(), Mean(), MeanByPosition())}
"""Ablations that need only a name. Optimal ablation is not here because its constants are learned."""


def ablation_named(name: str) -> Ablation:
    """The ablation of this name.

    Raises:
        SettingsError: the name is "optimal", whose constants must be learned first.
        UnknownNameError: no ablation has this name; the error suggests the nearest names.
    """
    check_ablation(name)
    if name == OPTIMAL:
        raise SettingsError("an optimal ablation needs learned constants: call learn_optimal and pass its result.")
    return ABLATIONS[name]


def check_ablation(name: str) -> None:
    """Check that an ablation of this name exists.

    Raises:
        UnknownNameError: no ablation has this name; the error suggests the nearest names.
    """
    if name not in (*ABLATIONS, OPTIMAL):
        raise UnknownNameError("ablation", name, (*ABLATIONS, OPTIMAL))


def ablated_by_batch(model: Transformer, graph: Graph, corrupted: Tokens, ablation: Ablation) -> AblatedBatch:
    """A function that returns the ablated values of one batch, from its corrupted prompts and the index of its first prompt.

    The values of all prompts at once would be the largest tensor of a run. Only means, which average over all prompts, need them.

    Args:
        corrupted: all of a task's corrupted prompts.
    """
    if ablation.by_prompt:
        return lambda part, start: ablation.values(model, graph, part)
    everything = ablation.values(model, graph, corrupted)
    return lambda part, start: everything[:, start : start + len(part), : part.ids.shape[1]]
