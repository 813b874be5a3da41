"""Descents: how masks and constants are trained, so that a descent that was interrupted goes on to the same bits.

A checkpoint holds everything that the next step depends on: what is trained, the optimisers' moments, and the state of
the generator that all draws come from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subcircuit.search.attribution import Rounds
from subcircuit.search.journal import FORGETFUL, Journal, alone, recall_tensors, record_tensors
from subcircuit.search.problem import Problem
from subcircuit.search.result import OnRound

# a step of a large model takes seconds, and so does what is lost at most
_STEPS_BETWEEN = 5


@dataclass(frozen=True)
class Log:
    """How a descent is watched and remembered.

    Args:
        settings: of the search, which tell its checkpoint from those of other searches.
        on_step: told of every step.
        journal: keeps the latest checkpoint.
    """

    settings: object
    on_step: OnRound | None = None
    journal: Journal = FORGETFUL


def descend(
    optimisers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
    steps: int,
    objective: Callable[[int], object],
    problem: Problem,
    log: Log,
) -> None:
    """Step after step: gradients from ``objective``, which gets the step's number, then every optimiser's move.

    Args:
        optimisers: of all that is trained.
        generator: of all draws that ``objective`` takes.
        problem: whose examples every step runs.
        log: where the descent goes on from, and where it is kept.
    """
    examples, key, journal = len(problem.task), f"{log.settings}/checkpoint", alone(log.journal)
    rounds = Rounds(examples * steps, log.on_step)
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
    """The steps that are done."""
    if state is None:
        return 0
    generator.set_state(state["generator"])
    for name, optimiser, trained in _trained(optimisers):
        mine = {key.removeprefix(f"{name} "): tensor for key, tensor in state.items() if key.startswith(f"{name} ")}
        trained.data.copy_(mine.pop("value"))
        optimiser.state[trained] = mine
    return int(state["step"])


def _trained(optimisers: Sequence[torch.optim.Optimizer]) -> list[tuple[str, torch.optim.Optimizer, Tensor]]:
    """Everything that is trained, with a name and its optimiser."""
    return [
        (f"{number}.{place}", optimiser, trained)
        for number, optimiser in enumerate(optimisers)
        for place, trained in enumerate(tensor for group in optimiser.param_groups for tensor in group["params"])
    ]
