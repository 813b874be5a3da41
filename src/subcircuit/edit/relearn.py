"""Relearning of a removed capability: the share that returns after a few steps of fine-tuning on the task.

    minimise −log p(right answer) over all weights, with Adam, on all training prompts in every step

A capability that was only hidden returns within a few steps; a removed one has to be learned again. Two controls give the curve
its meaning. The first is the original model, trained in the same way on the *wrong* answers: it shows whether the step size can
change a whole model at all. If it cannot, the test is inconclusive. The default step size is the smallest
of a series that costs the original model half of the capability. (The original model's loss on the right answers is no
criterion: it is near zero, and halves without a change of the model.) The second control is a model without *other* nodes, drawn
at random outside the circuit and removed until as little of the task is left. Cost: about four forward passes over the training
prompts per step.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from subcircuit.edit.parts import Probe, all_nodes, measure
from subcircuit.edit.weights import is_whole_mlp, remove_nodes
from subcircuit.entry import entry
from subcircuit.errors import NumericalError, SettingsError
from subcircuit.graph import Node
from subcircuit.model import Transformer, map_tensors
from subcircuit.tasks import Task, check_vocabulary, metric

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Step sizes that are tried on the original model if none is given."""
# shares of the capability left in the original model: for the choice of a step size, and for "changed"
_ENOUGH, _LEAST = 0.5, 0.9
# number of sizes of random damage that are measured if none lowers the capability as much as the edit
_SIZES = 16


@dataclass(frozen=True)
class Relearning:
    """Settings of the fine-tuning.

    Args:
        steps: number of steps of Adam; 0 is none.
        learning_rate: step size for all weights; None is the smallest of a series that changes the original model, see ``untouched``.
    """

    steps: int = 16
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise SettingsError(f"steps of relearning is {self.steps}: it must be at least 0")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise SettingsError(f"the learning rate of relearning is {self.learning_rate}: it must be above 0")

    @property
    def measured(self) -> tuple[int, ...]:
        """After which steps the capability is measured: 0, 1, 2, 4, 8, … and the last."""
        powers = [0, *(2**power for power in range(self.steps.bit_length()))]
        return tuple(sorted({*(step for step in powers if step <= self.steps), self.steps}))


Curve = tuple[tuple[int, float], ...]
"""Pairs of a step and the share of the capability after it."""


@dataclass(frozen=True)
class Untouched:
    """The result of training the whole model on the wrong answers, as a control of the step size.

    Args:
        learning_rate: of all weights.
        curve: the share of the capability after so many steps, up to the first at which half of it is gone.
    """

    learning_rate: float
    curve: Curve

    @property
    def moved(self) -> bool:
        """Whether at least a tenth of the capability is gone."""
        return self.curve[-1][1] <= _LEAST


@entry
def relearn(
    model: Transformer,
    train: Task,
    judged: Probe,
    settings: Relearning,
    learning_rate: float,
    on_step: Callable[[int], None] | None = None,
) -> Curve:
    """The share of the capability while a copy of the model is fine-tuned.

    Args:
        model: edited; it stays as it is.
        train: prompts to train on.
        judged: other prompts of the task, with what the whole model does on them.
        settings: how many steps.
        learning_rate: of all weights.
        on_step: called after every step with its number.
    """
    check_vocabulary(model, train)
    return tuple(_shares(model, train, judged, settings, learning_rate, on_step))


def untouched(train: Task, judged: Probe, settings: Relearning, on_step: Callable[[int], None] | None = None) -> Untouched:
    """Train copies of the whole model on the wrong answers: at the step size that is asked for, or at larger and larger ones.

    Args:
        train: prompts to train on.
        judged: other prompts of the task, and the whole model; it stays as it is.
        on_step: called after every step with its number.

    Returns:
        The first step size that takes half of the capability; where none does, the one that takes most.

    Raises:
        NumericalError: NaN or infinity at the first step size.
    """
    check_vocabulary(judged.model, train)
    found: list[Untouched] = []
    for rate in RATES if settings.learning_rate is None else (settings.learning_rate,):
        try:
            found.append(_turned(train, judged, settings, rate, on_step))
        except NumericalError:
            # larger steps do no better
            if not found:
                raise
            break
        if found[-1].curve[-1][1] <= _ENOUGH:
            return found[-1]
    return min(found, key=lambda one: one.curve[-1][1])


def _turned(train: Task, judged: Probe, settings: Relearning, rate: float, on_step: Callable[[int], None] | None) -> Untouched:
    curve: list[tuple[int, float]] = []
    for step, share in _shares(judged.model, _swapped(train), judged, settings, rate, on_step):
        curve.append((step, share))
        if share <= _ENOUGH:
            break
    return Untouched(rate, tuple(curve))


def _swapped(task: Task) -> Task:
    """The task with right and wrong answers in each other's place."""
    a = task.answers
    return replace(
        task, answers=replace(a, correct=a.wrong, correct_mask=a.wrong_mask, wrong=a.correct, wrong_mask=a.correct_mask)
    )


def _shares(
    model: Transformer, train: Task, judged: Probe, settings: Relearning, rate: float, on_step: Callable[[int], None] | None
) -> Iterator[tuple[int, float]]:
    """Pairs of a measured step and the capability's share in a copy of the model after it."""
    tuned, leaves = _trainable(model)
    optimiser, train = torch.optim.Adam(leaves, rate), train.to(model.device)
    loss = metric("negative_log_likelihood")
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
                yield step, float(measure(tuned, judged.task, judged.metric, tuned.stream)) / judged.whole


def _trainable(model: Transformer) -> tuple[Transformer, list[Tensor]]:
    """A copy with trainable weights; shared tensors stay shared."""
    copies: dict[int, Tensor] = {}

    def copy(tensor: Tensor) -> Tensor:
        return copies.setdefault(id(tensor), tensor.detach().clone().requires_grad_())

    return replace(model, weights=map_tensors(model.weights, copy)), list(copies.values())


@dataclass(frozen=True, eq=False)
class Damaged:
    """A model without nodes drawn at random.

    Args:
        model: the damaged model.
        nodes: the removed nodes.
        as_low: whether its share of the capability is at or below the target.
    """

    model: Transformer
    nodes: tuple[Node, ...]
    as_low: bool


@entry
@torch.no_grad()
def damaged_at_random(
    model: Transformer, spared: Sequence[Node], removed: Sequence[Node], probe: Probe, target: float, seed: int = 0
) -> Damaged:
    """The model without nodes drawn at random, the fewest of the draw that take the capability as low.

    Nodes are replaced with zeros, the harshest replacement. Heads are removed first, together with MLPs if the compared removal
    took any; then the other MLPs; and spared nodes only if all of these are not enough. If no part of the draw brings the
    capability as low, the part that brings it lowest is removed.

    Args:
        spared: nodes that stay as long as others will do: those of the circuit.
        removed: by the removal that is compared with; they stay, unless there are no others.
    """
    draw = _drawn(model, spared, removed, seed)
    shares: dict[int, float] = {}

    def without(count: int) -> Transformer:
        return remove_nodes(model, draw[:count], None)

    def low(count: int) -> bool:
        if count not in shares:
            shares[count] = float(probe.share(without(count).stream))
        return shares[count] <= target

    sizes = sorted({max(1, len(draw) * part // _SIZES) for part in range(1, _SIZES + 1)})
    many = len(draw) if low(len(draw)) else next((size for size in sizes if low(size)), 0)
    if not many:
        lowest = min(shares, key=lambda count: (shares[count], count))
        return Damaged(without(lowest), tuple(draw[:lowest]), False)
    few = 0
    while many - few > 1:
        # the share does not fall evenly: this finds one of the places where it crosses the target
        middle = (few + many) // 2
        few, many = (few, middle) if low(middle) else (middle, many)
    return Damaged(without(many), tuple(draw[:many]), True)


def _drawn(model: Transformer, spared: Sequence[Node], removed: Sequence[Node], seed: int) -> list[Node]:
    """All nodes that random damage may take, in the order in which it takes them."""
    with_mlps, random = any(is_whole_mlp([node.neurons]) for node in removed), Random(seed)
    ranks: dict[int, list[Node]] = {}
    for node in all_nodes(model):
        if node in set(removed):
            rank = 3
        elif node in set(spared):
            rank = 2
        else:
            rank = int(is_whole_mlp([node.neurons]) and not with_mlps)
        ranks.setdefault(rank, []).append(node)
    taken = [rank for rank in sorted(ranks) if rank < 3] or [3]
    for rank in taken:
        random.shuffle(ranks[rank])
    return [node for rank in taken for node in ranks[rank]]
