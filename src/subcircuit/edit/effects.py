"""Before and after: what an edit does to the capability, to what was to be retained, to text, and whether it lasts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from subcircuit.edit.parts import Stream
from subcircuit.edit.probe import Probe, measure
from subcircuit.edit.relearn import Curve, Relearning, Untouched, damaged_at_random, relearn, untouched
from subcircuit.edit.text import Side, Texts, side_effects
from subcircuit.edit.weights import Node
from subcircuit.entry import entry
from subcircuit.model import Transformer
from subcircuit.search import OnRound
from subcircuit.search.attribution import Rounds
from subcircuit.tasks import METRICS, Task

Say = Callable[[str], None]


@dataclass(frozen=True)
class Change:
    """One task before and after.

    Args:
        task: its name.
        metric: what was measured.
        examples: prompts, none of which was used before.
        before, after: means over them.
        accuracy_before, accuracy_after: share of answers that outrank the wrong ones; None without wrong ones.
    """

    task: str
    metric: str
    examples: int
    before: float
    after: float
    accuracy_before: float | None
    accuracy_after: float | None

    @property
    def share(self) -> float:
        """What is left, of what there was."""
        return self.after / self.before


@dataclass(frozen=True)
class Recovery:
    """Whether the capability comes back.

    Args:
        settings: of the fine-tuning.
        examples: prompts that were trained on.
        untouched: the step size, and what it does to the whole model, trained on the wrong answers.
        edited: the share of the capability after so many steps.
        random: the same for a model that lacks as many random nodes as take the capability as low, or as low as they can.
        random_nodes: how many these are.
        random_in_circuit: how many of them are in the circuit, as those outside it were not enough.
    """

    settings: Relearning
    examples: int
    untouched: Untouched
    edited: Curve
    random: Curve
    random_nodes: int
    random_in_circuit: int


@dataclass(frozen=True)
class Effects:
    """What an edit does.

    Args:
        target: the capability.
        retained: what was to stay.
        side: text and unrelated prompts; None for models that read no text.
        recovery: None where it was not tried.
    """

    target: Change
    retained: tuple[Change, ...]
    side: Side | None
    recovery: Recovery | None


@entry
def effects(
    model: Transformer,
    run: Stream,
    target: Probe,
    retained: Sequence[Probe],
    texts: Texts | None,
    on_round: OnRound | None = None,
) -> Effects:
    """Measure an edited model beside the whole one.

    Args:
        model: the whole model.
        run: the edited one.
        target, retained: on prompts that the search did not see.
        texts: None leaves text out.
        on_round: called as tasks and pieces of text are done.
    """
    read = 0 if texts is None else texts.tokens
    rounds = Rounds(sum(map(_tokens, (target, *retained))) + read, on_round, "tokens")

    def change(probe: Probe) -> Change:
        found = _change(probe, run)
        rounds.done(_tokens(probe))
        return found

    side = None if texts is None else side_effects(model, run, texts, rounds.done)
    return Effects(change(target), tuple(map(change, retained)), side, None)


@entry
def recovery(
    edited: Transformer,
    spared: Sequence[Node],
    removed: Sequence[Node],
    train: Task,
    judged: Probe,
    settings: Relearning,
    say: Say,
    on_round: OnRound | None = None,
) -> Recovery:
    """Fine-tune the edited model, and one that is damaged as much at random.

    Args:
        edited: without its nodes.
        spared: the circuit's nodes, which the random damage leaves alone.
        removed: the nodes that are gone.
        train: prompts to train on.
        judged: other prompts.
        say: told what takes long.
        on_round: called after every step of fine-tuning.
    """
    step = _steps(settings, on_round)
    say("relearning: a step size that moves the untouched model")
    whole = untouched(train, judged, settings, step)
    rate = whole.learning_rate
    say(f"relearning: {settings.steps} steps of fine-tuning at {rate:g} on {len(train)} prompts of {train.name}")
    curve = relearn(edited, train, judged, settings, rate, step)
    say("relearning: the same after random damage")
    damaged = damaged_at_random(judged.model, spared, removed, judged, max(curve[0][1], 0.0))
    random = relearn(damaged.model, train, judged, settings, rate, step)
    inside = len(set(damaged.nodes) & set(spared))
    return Recovery(settings, len(train), whole, curve, random, len(damaged.nodes), inside)


def _steps(settings: Relearning, on_round: OnRound | None) -> Callable[[int], None]:
    """Tells of the steps of one training after another."""
    rounds = Rounds(settings.steps, on_round, "steps")

    def step(number: int) -> None:
        nonlocal rounds
        if number == 1:
            rounds = Rounds(settings.steps, on_round, "steps")
        rounds.reach(number)

    return step


def _tokens(probe: Probe) -> int:
    """How many tokens are run to see what an edit does to a task: three passes over its prompts."""
    return 3 * int(probe.task.clean.lengths.sum())


@torch.no_grad()
def _change(probe: Probe, run: Stream) -> Change:
    model, task, accuracy = probe.model, probe.task, METRICS["accuracy"]
    contrasts = bool(task.answers.wrong_mask.any(-1).all())
    right = [float(measure(model, task, accuracy, each)) if contrasts else None for each in (model.stream, run)]
    after = float(measure(model, task, probe.metric, run))
    return Change(task.name, probe.metric.name, len(task), probe.whole, after, *right)
