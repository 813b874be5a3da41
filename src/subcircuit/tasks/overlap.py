"""Prompts that two tasks have in common: what a circuit was found with should not also judge it.

Two random draws of the same task may share prompts. Prompts are compared as token ids; pairs with the same clean prompt
count as shared whatever their counterparts are.
"""

from dataclasses import replace

import torch

from subcircuit.errors import SettingsError
from subcircuit.tasks.task import Task


def shared_prompts(a: Task, b: Task) -> int:
    """How many clean prompts two tasks have in common; one that comes several times in a task counts once."""
    return len(_prompts(a) & _prompts(b))


def without(task: Task, other: Task) -> Task:
    """The pairs of a task whose clean prompt is not among the other's.

    The parameters then say without what, under ``without``.

    Raises:
        SettingsError: no pair is left.
    """
    taken = _prompts(other)
    wanted = [tuple(prompt) not in taken for prompt in task.clean.to_lists()]
    if not any(wanted):
        raise SettingsError(
            f"all {len(task)} prompts of task {task.name} occur in the other task too, and none is left to judge with: search "
            "with fewer, or add more."
        )
    rest = task.where(torch.tensor(wanted, device=task.clean.ids.device))
    left_out = {"task": other.name, "parameters": dict(other.parameters)}
    return replace(rest, parameters={**task.parameters, "without": left_out})


def _prompts(task: Task) -> set[tuple[int, ...]]:
    return {tuple(prompt) for prompt in task.clean.to_lists()}
