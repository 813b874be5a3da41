"""Does a removed capability come back? A few steps of fine-tuning on the task, and how much there is of it after each.

    minimise −log p(right answer) over all weights, with Adam, on all training prompts in every step

What was only hidden returns within a few steps; what is gone has to be learned again. How fast that is depends on the damage
too, so there is a yardstick: the same fine-tuning of a model in which *other* nodes, drawn at random outside the circuit, were
removed until as little of the task was left. Cost: about four forward passes over the training prompts a step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from subcircuit.edit.parts import all_nodes
from subcircuit.edit.probe import Probe, measure
from subcircuit.edit.weights import Node, remove_nodes
from subcircuit.errors import SettingsError
from subcircuit.graph import MLP
from subcircuit.model import Transformer, map_tensors
from subcircuit.tasks import Task, check_vocabulary, metric


@dataclass(frozen=True)
class Relearning:
    """Settings of the fine-tuning.

    Args:
        steps: of Adam; 0 is none.
        learning_rate: of all weights.
    """

    steps: int = 16
    learning_rate: float = 1e-5

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise SettingsError(f"relearning takes {self.steps} steps: it must be 0 or more")
        if not self.learning_rate > 0:
            raise SettingsError(f"the learning rate of relearning is {self.learning_rate}: it must be above 0")

    @property
    def measured(self) -> tuple[int, ...]:
        """After which steps the capability is measured: 0, 1, 2, 4, 8, … and the last."""
        powers = [0, *(2**power for power in range(self.steps.bit_length()))]
        return tuple(sorted({*(step for step in powers if step <= self.steps), self.steps}))


Curve = tuple[tuple[int, float], ...]
"""Pairs of a step and the share of the capability that there is after it."""


def relearn(
    model: Transformer, train: Task, judged: Probe, settings: Relearning, on_step: Callable[[int], None] | None = None
) -> Curve:
    """Fine-tune a copy of the model and measure.

    Args:
        model: edited; it stays as it is.
        train: prompts to train on.
        judged: other prompts of the task, with what the whole model does on them.
        on_step: called after every step with its number.
    """
    check_vocabulary(model, train)
    tuned, leaves = _trainable(model)
    optimiser, train = torch.optim.Adam(leaves, settings.learning_rate), train.to(model.device)
    loss, curve = metric("negative_log_likelihood"), []
    for step in range(settings.steps + 1):
        if step:
            optimiser.zero_grad()
            measure(tuned, train, loss, tuned.stream).backward()
            optimiser.step()
            if on_step is not None:
                on_step(step)
        if step in settings.measured:
            with torch.no_grad():
                # the final norm and the unembedding are tuned too
                curve.append((step, float(measure(tuned, judged.task, judged.metric, tuned.stream)) / judged.whole))
    return tuple(curve)


def _trainable(model: Transformer) -> tuple[Transformer, list[Tensor]]:
    """A copy with weights that take gradients; tensors that are shared stay shared."""
    copies: dict[int, Tensor] = {}

    def copy(tensor: Tensor) -> Tensor:
        return copies.setdefault(id(tensor), tensor.detach().clone().requires_grad_())

    return replace(model, weights=map_tensors(model.weights, copy)), list(copies.values())


@torch.no_grad()
def damaged_at_random(
    model: Transformer, spared: Sequence[Node], removed: Sequence[Node], probe: Probe, target: float, seed: int = 0
) -> tuple[Transformer, int] | None:
    """The model without nodes drawn at random, the fewest of the draw that take the capability as low.

    Nodes are replaced with zeros, the harshest that any removal does. They are heads, and MLPs only where the
    removal that is compared with took some.

    Args:
        spared: nodes that stay: those of the circuit.
        removed: by the removal that is compared with.

    Returns:
        The model and how many nodes it lacks; None where even all others gone leave more.
    """
    with_mlps = any(isinstance(node, MLP) for node in removed)
    pool = [node for node in all_nodes(model) if node not in set(spared) and (with_mlps or not isinstance(node, MLP))]
    Random(seed).shuffle(pool)

    def without(count: int) -> Transformer:
        return remove_nodes(model, pool[:count], None)

    def low(count: int) -> bool:
        return float(probe.share(without(count).stream)) <= target

    if not low(len(pool)):
        return None
    few, many = 0, len(pool)
    while many - few > 1:
        # the share does not fall evenly: this finds one of the places where it crosses the target
        middle = (few + many) // 2
        few, many = (few, middle) if low(middle) else (middle, many)
    return without(many), many
