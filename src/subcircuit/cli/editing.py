"""What ``remove`` and ``keep`` have in common: a circuit with its model, prompts to edit with, and others to judge with."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from subcircuit.cli.problem import Overrides, load_recorded, split_of, task_named, unseen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from subcircuit.edit import Means
    from subcircuit.graph import Circuit
    from subcircuit.model import Transformer
    from subcircuit.report import EditReport, HeldOut
    from subcircuit.tasks import BosPolicy, Split, Task

EXAMPLES, EVAL_EXAMPLES = 24, 64
HOW_MANY = f"{EXAMPLES}, or fewer where there are fewer"

Out: TypeAlias = Annotated[Path, typer.Option(help="New or empty directory for the edited model.")]
StandIn: TypeAlias = Annotated[
    str | None, typer.Option(help="What stands in for what is gone: mean, zero, optimal. Default: mean, or zero.")
]
Text: TypeAlias = Annotated[Path | None, typer.Option(help="Text for perplexity. Default: a short one of the package's own.")]
EvalExamples: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help="Other pairs of prompts a task to judge with. Default: the run's own test prompts; of other tasks 64, or those that "
        "a file has left."
    ),
]
Seed: TypeAlias = Annotated[int | None, typer.Option(help="Of the prompts. Default: as recorded.")]
CapabilityMetric: TypeAlias = Annotated[
    str | None, typer.Option(help="Of the capability. Default: as recorded, or logit_difference.")
]
Prompts: TypeAlias = Annotated[str | None, typer.Option("--task", "-t", help="Where the prompts are. Default: as recorded.")]


@dataclass(frozen=True, eq=False)
class Material:
    """What an edit works with.

    Args:
        found: prompts of the circuit's task to search with.
        retain: prompts of what is to stay.
        held_out: other prompts of the same tasks.
        metric: of the capability; None where the recorded one cannot say how much of it is left.
    """

    circuit: "Circuit"
    model: "Transformer"
    found: "Task"
    retain: "tuple[Task, ...]"
    held_out: "HeldOut"
    metric: str | None


@dataclass(frozen=True, eq=False)
class Drawing:
    """How prompts are drawn that an edit is made with, and others that judge it.

    Args:
        examples, eval_examples: how many of each; None where nobody said.
    """

    model: "Transformer"
    examples: int | None
    eval_examples: int | None
    seed: int
    bos: "BosPolicy"

    def of(self, name: str, own: "Split | None", say: "Callable[[str], None]") -> "tuple[Task, Task]":
        """Both kinds of a task's prompts, none in both.

        Args:
            own: the parts that the run set apart, whose test prompts judge the edit; None draws anew.
            say: told where there are fewer than were asked for.
        """
        from subcircuit.tasks import is_prompt_file, load_at_most, load_task, load_two, without

        if own is None or own.test is None:
            others = EVAL_EXAMPLES if self.eval_examples is None else self.eval_examples
            named = {"examples": self.examples, "default": EXAMPLES, "others": others}
            return load_two(name, self.model, **named, seed=self.seed, bos=self.bos)
        judging, count = unseen(own, name, self.eval_examples, self.model), self.examples or EXAMPLES
        # all test prompts are left out, however few of them are asked for
        apart = max(judging, own.test, key=len)
        if is_prompt_file(name):
            drawn = load_task(name, self.model, bos=self.bos)
        else:
            drawn = load_at_most(name, self.model, examples=count + len(apart), seed=self.seed, bos=self.bos)
        rest = without(drawn, apart)
        if self.examples is not None and len(rest) < self.examples:
            say(
                f"warning: only {len(rest)} of the requested {self.examples} pairs of {name} are available besides the evaluation prompts"
            )
        return rest[: min(count, len(rest))], judging


def means_named(level: str, ablation: str | None) -> "Means":
    """How an edit is made.

    Raises:
        UnknownNameError: no such level or ablation.
    """
    from subcircuit.edit import Means, fill_named
    from subcircuit.errors import UnknownNameError

    fill = None if ablation is None else fill_named(ablation)
    match level:
        case "node":
            return Means("node", fill)
        case "edge":
            return Means("edge", fill)
        case _:
            raise UnknownNameError("level", level, ("node", "edge"))


def material(
    path: Path,
    given: Overrides,
    retain: "Sequence[str]",
    eval_examples: int | None,
    text: Path | None,
    say: "Callable[[str], None]",
) -> Material:
    """Load and draw everything.

    Raises:
        SubcircuitError: something cannot be had; a model that is not the circuit's, above all.
    """
    from subcircuit.edit import Probe, Texts, check_same_model, read_text
    from subcircuit.graph import Circuit
    from subcircuit.report import HeldOut
    from subcircuit.tasks import check_task
    from subcircuit.tasks import metric as metric_named

    content = None if text is None else read_text(text)
    for other in retain:
        check_task(other)
    circuit = Circuit.load(path)
    record, name = circuit.record, task_named(path, circuit, given)
    model = load_recorded(path, circuit, given, say)
    check_same_model(circuit, model)
    own = split_of(circuit, name, model) if given.seed is None else None
    recorded, bos = 0 if record is None else record.seed, _bos(circuit)
    drawing = Drawing(model, given.examples, eval_examples, recorded if given.seed is None else given.seed, bos)
    drawn = [drawing.of(name, own, say), *(drawing.of(other, None, say) for other in dict.fromkeys(retain))]
    found, others = [part for part, _ in drawn], [part for _, part in drawn]
    measured = metric_named(given.metric or (found[0].metric if record is None else record.metric))
    metric = given.metric or (measured.name if _tells(measured) else None)
    probes = [Probe.of(model, others[0], metric), *(Probe.of(model, other) for other in others[1:])]
    texts = Texts.of(model, content, bos)
    if model.tokenizer is not None and texts is None:
        say(f"warning: perplexity is not measured, because the tokenizer of {model.name} cannot read the package's text")
    elif texts is not None and texts.unread is not None:
        say(
            f"warning: {texts.unread!r} and perhaps more words of the text are not in the vocabulary of {model.name}, so perplexity and KL on "
            "text and unrelated prompts are unreliable"
        )
    held_out = HeldOut(probes[0], tuple(probes[1:]), texts)
    return Material(circuit, model, found[0], tuple(found[1:]), held_out, metric)


def show(report: "EditReport", directory: Path, as_json: bool) -> None:
    """The table before and after; what was not reached goes to standard error."""
    from subcircuit.cli.console import messages, plain, print_json, print_table, results

    for warning in report.warnings:
        messages().print(plain(f"warning: {warning}"), soft_wrap=True)
    if as_json:
        print_json({**report.to_json(), "out": str(directory)})
        return
    print_table(report.header, report.rows, results())
    results().print()
    results().print(plain(f"written   {directory}"), soft_wrap=True)
    results().print(plain(f"picture   {directory / 'edit.png'}"), soft_wrap=True)


def _tells(metric: object) -> bool:
    from subcircuit.tasks import Metric

    assert isinstance(metric, Metric)
    return metric.direction == "higher" and metric.differentiable and not metric.compares


def _bos(circuit: "Circuit") -> "BosPolicy":
    from subcircuit.cli.options import bos_policy

    return bos_policy("auto" if circuit.record is None else str(circuit.record.task.parameters.get("bos", "auto")))
