"""Trained masks: their distribution, the loss of masked runs with its gradients, and training that can be interrupted.

The hard concrete distribution (Louizos, Welling & Kingma 2018, arXiv 1712.01312) is on [0, 1], both ends have positive
probability, and its draws are differentiable:

    z = min(1, max(0, s (ζ − γ) + γ)),    s = σ((log u − log(1 − u) + log α) / β),    u uniform on (0, 1)
    P(z > 0) = σ(log α − β log(−γ/ζ)),    β = 2/3,  γ = −0.1,  ζ = 1.1

Masks, their gradients and the optimiser's state are float32 on the CPU, whatever the model's precision and device. All draws
come from one generator, an example's draws do not depend on the batch size, and gradients of batches are summed in float64:
the batch size changes results by rounding alone.

An interrupted training resumes bit-identically: a checkpoint holds the trained values, the optimisers' moments, and the state
of the generator of all draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import isfinite, log
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.engine.ablation import AblatedBatch, ablated_by_batch
from subcircuit.engine.memory import in_parts
from subcircuit.errors import NumericalError, SettingsError
from subcircuit.graph import Graph
from subcircuit.model.components import unembed
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer
from subcircuit.search.attribution import check_batch_size, check_differentiable, examples_at_once
from subcircuit.search.cost import STEPS, SearchCost, cost_of_examples
from subcircuit.search.journal import FORGETFUL, Journal, alone, recall_tensors, record_tensors
from subcircuit.search.method import ScoringMethod
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, ProgressCounter
from subcircuit.tasks import Answers, Bound, with_positions
from subcircuit.tasks.metrics import example_losses

_BETA, _GAMMA, _ZETA = 2 / 3, -0.1, 1.1

Run: TypeAlias = Callable[
    [Transformer, Graph, Tensor, Tokens, Float[Tensor, "writer batch pos d_model"]], Float[Tensor, "batch pos d_model"]
]
"""``last_stream`` or ``last_stream_of_nodes``: from model, graph, masks, clean prompts and ablated values."""


def hard_concrete(log_odds: Float[Tensor, "*rows"], generator: torch.Generator) -> Float[Tensor, "*rows"]:
    """A draw for each log α, differentiable in log α."""
    u = torch.rand(log_odds.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    s = ((u.log() - (-u).log1p() + log_odds) / _BETA).sigmoid()
    return (s * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)


def log_kept(log_odds: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """log P(z > 0) of the hard concrete distribution."""
    return torch.nn.functional.logsigmoid(log_odds - _BETA * log(-_GAMMA / _ZETA))


def odds(log_chance: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """p / (1 − p) from log p. Odds rank like chances, without ties near 1; ranking by value and by magnitude agree."""
    return log_chance.exp() / -log_chance.expm1()


def on_edges(graph: Graph, values: Float[Tensor, "*batch edge"]) -> Float[Tensor, "*batch writer reader"]:
    """A matrix of edges from a value per edge, row by row; zeros at pairs without an edge."""
    matrix = values.new_zeros(*values.shape[:-1], *graph.edges.shape)
    matrix[..., graph.edges] = values
    return matrix


@dataclass(frozen=True, eq=False)
class Batch:
    """Some examples, prepared for masked runs.

    Args:
        examples: their indices in the task.
        tokens: clean prompts, up to the last answer.
        ablated: the values of ablated writers on these prompts.
    """

    examples: slice
    tokens: Tokens
    ablated: Float[Tensor, "writer batch pos d_model"]
    answers: Answers
    metric: Bound


@dataclass(eq=False)
class MaskedLoss:
    """The task's mean loss (larger is worse) as a function of masks and of ablated values.

    Args:
        run: function that applies the masks.
        by_batch: ablated values, from some corrupted prompts.
        examples: number of examples at once; reduced permanently if memory runs out.
        held: all examples, cached if they run at once. Caching several batches would use the memory that batching saves.
    """

    problem: Problem
    run: Run
    by_batch: AblatedBatch
    examples: int
    held: Batch | None = None

    @staticmethod
    def of(problem: Problem, batch_size: int | None, run: Run) -> "MaskedLoss":
        """The masked loss of a problem, with so many examples at once (None chooses by memory).

        Raises:
            SettingsError: the metric has no gradients.
        """
        check_differentiable(problem)
        size = examples_at_once(problem, batch_size)
        by_batch = ablated_by_batch(problem.model, problem.graph, problem.task.corrupted, problem.ablation)
        return MaskedLoss(problem, run, by_batch, size)

    def backward(
        self,
        mask: Float[Tensor, "#batch ..."] | Bool[Tensor, "#batch ..."],
        constants: Float[Tensor, "writer d_model"] | None = None,
    ) -> float:
        """Add the gradients of the loss to those of the tensors that masks and constants were computed from.

        Args:
            mask: as ``run`` takes it, one for all examples of the task or one per example.
            constants: values of ablated writers, instead of those of the problem's ablation.

        Returns:
            The loss.

        Raises:
            NumericalError: it is NaN or infinite.
            ShortOfMemoryError: a single example does not fit in memory.
        """
        made = [mask] if constants is None else [mask, constants]
        made = [tensor for tensor in made if tensor.requires_grad]
        every = range(len(self.problem.task))

        def some(examples: range) -> _Share:
            return self._share(examples, mask, constants, made)

        parts = [every[begin : begin + self.examples] for begin in every[:: self.examples]]
        total = reduce(_Share.plus, (in_parts(some, part, _Share.plus) for part in parts))
        self.examples = total.largest
        if not isfinite(total.loss):
            raise NumericalError(
                f"{self.problem.metric.name} of a masked run is {total.loss} in {self.problem.model.dtype}: load the model in float32"
            )
        torch.autograd.backward(made, [part.to(tensor.dtype) for part, tensor in zip(total.gradients, made, strict=True)])
        return total.loss

    def _share(
        self, examples: range, mask: Tensor, constants: Float[Tensor, "writer d_model"] | None, made: list[Tensor]
    ) -> "_Share":
        """The examples' part of the loss, and its gradients with respect to ``made``: the mask, the constants or both."""
        batch = self._batch(examples)
        leaves = {id(tensor): tensor.detach().requires_grad_() for tensor in made}
        part = self._loss(batch, leaves.get(id(mask), mask), None if constants is None else leaves.get(id(constants), constants))
        gradients = torch.autograd.grad(part, list(leaves.values()))
        return _Share(float(part.detach()), [gradient.double() for gradient in gradients], len(examples))

    def _batch(self, examples: range) -> Batch:
        whole = len(examples) == len(self.problem.task)
        if whole and self.held is not None:
            return self.held
        # free the cached batch before allocating another
        self.held = None
        made = _made(self.problem, self.by_batch, examples)
        self.held = made if whole else None
        return made

    def _loss(self, batch: Batch, mask: Tensor, constants: Float[Tensor, "writer d_model"] | None) -> Float[Tensor, ""]:
        """A batch's share of the task's mean loss."""
        ablated = batch.ablated
        if constants is not None:
            ablated = constants.to(ablated)[:, None, None].expand_as(ablated)
        model, graph = self.problem.model, self.problem.graph
        stream = self.run(model, graph, mask if len(mask) == 1 else mask[batch.examples], batch.tokens, ablated)
        return example_losses(model, batch.answers, batch.metric, batch.answers.rows(stream)).sum() / len(self.problem.task)


class TrainingMethod(ScoringMethod):
    """A method that trains masks with a number of optimiser steps."""

    steps: int

    def check(self, problem: Problem) -> None:
        """Raise the errors that ``search`` would raise for this problem."""
        check_differentiable(problem)

    def cost(self, problem: Problem, patience: float = 60.0) -> SearchCost:
        """The cost, from a few steps on a few examples."""
        short = replace(self, steps=min(STEPS, self.steps))
        return cost_of_examples(short.search, problem, self.steps / short.steps)


def check_training(steps: int, batch_size: int | None, **rates: float) -> None:
    """Check that the settings of a training are in range.

    Raises:
        SettingsError: a setting is out of range; the message names it.
    """
    if steps < 1:
        raise SettingsError(f"steps is {steps}: it must be at least 1, for example 200")
    for name, rate in rates.items():
        if not (isfinite(rate) and rate > 0):
            raise SettingsError(f"{name} is {rate}: it must be above 0, for example 0.1")
    check_batch_size(batch_size)


def check_price(price: float) -> None:
    """Check that the price is not negative.

    Raises:
        SettingsError: it is negative.
    """
    if not (isfinite(price) and price >= 0):
        raise SettingsError(f"price is {price}: it must be at least 0, for example 0.01")


@dataclass(frozen=True, eq=False)
class _Share:
    """A part of the loss and its gradients from some examples; the gradients are float64.

    Args:
        largest: largest number of examples that ran at once.
    """

    loss: float
    gradients: list[Float[Tensor, "..."]]
    largest: int

    def plus(self, other: "_Share") -> "_Share":
        gradients = [mine + theirs for mine, theirs in zip(self.gradients, other.gradients, strict=True)]
        return _Share(self.loss + other.loss, gradients, max(self.largest, other.largest))


@torch.no_grad()
def _made(problem: Problem, by_batch: AblatedBatch, examples: range) -> Batch:
    model, graph = problem.model, problem.graph
    part = with_positions(graph, problem.task[examples.start : examples.stop])
    # if attention is bidirectional, positions after the last answer matter too
    n_pos = int(part.answers.pos.max()) + 1 if model.config.causal else part.clean.ids.shape[1]
    tokens, answers = part.clean.until(n_pos), part.answers
    reference = None
    if problem.metric.compares:
        reference = unembed(model.config, model.weights, answers.rows(model.stream(tokens)))
    ablated = by_batch(part.corrupted, examples.start)[:, :, :n_pos]
    return Batch(slice(examples.start, examples.stop), tokens, ablated, answers, problem.metric.bind(answers, reference))


# a step of a large model takes seconds; an interruption loses at most this many steps
_STEPS_BETWEEN = 5


@dataclass(frozen=True)
class Log:
    """Callback and storage of a training.

    Args:
        settings: settings of the search; they distinguish its checkpoint from those of other searches.
        on_step: called after every step.
        journal: stores the latest checkpoint.
    """

    settings: object
    on_step: OnProgress | None = None
    journal: Journal = FORGETFUL


def descend(
    optimisers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
    steps: int,
    objective: Callable[[int], object],
    problem: Problem,
    log: Log,
) -> None:
    """Run the steps of a training: gradients from ``objective``, which receives the step's number, then each optimiser's update.

    Args:
        optimisers: optimisers of all trained tensors.
        generator: the generator of all draws in ``objective``.
        problem: the problem whose examples every step runs.
        log: the checkpoint to resume from, and the place to store new ones.
    """
    examples, key, journal = len(problem.task), f"{log.settings}/checkpoint", alone(log.journal)
    rounds = ProgressCounter(examples * steps, log.on_step)
    done = _restore(optimisers, generator, recall_tensors(journal, key))
    rounds.reach(examples * done)
    for step in range(done, steps):
        for optimiser in optimisers:
            optimiser.zero_grad()
        objective(step)
        for optimiser in optimisers:
            optimiser.step()
        if (step + 1) % _STEPS_BETWEEN == 0 or step + 1 == steps or journal.leaving:
            record_tensors(journal, key, _state(optimisers, generator, step + 1))
        rounds.done(examples)


def _state(optimisers: Sequence[torch.optim.Optimizer], generator: torch.Generator, step: int) -> dict[str, Tensor]:
    state = {"step": torch.tensor(step), "generator": generator.get_state()}
    for name, optimiser, trained in _trained(optimisers):
        state[f"{name} value"] = trained
        state |= {f"{name} {part}": tensor for part, tensor in optimiser.state[trained].items()}
    return state


def _restore(optimisers: Sequence[torch.optim.Optimizer], generator: torch.Generator, state: dict[str, Tensor] | None) -> int:
    """Load a checkpoint and return the number of finished steps."""
    if state is None:
        return 0
    generator.set_state(state["generator"])
    for name, optimiser, trained in _trained(optimisers):
        mine = {key.removeprefix(f"{name} "): tensor for key, tensor in state.items() if key.startswith(f"{name} ")}
        trained.data.copy_(mine.pop("value"))
        optimiser.state[trained] = mine
    return int(state["step"])


def _trained(optimisers: Sequence[torch.optim.Optimizer]) -> list[tuple[str, torch.optim.Optimizer, Tensor]]:
    """Every trained tensor, with a name and its optimiser."""
    return [
        (f"{number}.{position}", optimiser, trained)
        for number, optimiser in enumerate(optimisers)
        for position, trained in enumerate(tensor for group in optimiser.param_groups for tensor in group["params"])
    ]
