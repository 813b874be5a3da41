"""Shared parts of ``remove`` and ``keep``: the circuit and its model, prompts for the edit, prompts for its evaluation."""

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
HOW_MANY = f"{EXAMPLES}, or all if there are fewer"

Out: TypeAlias = Annotated[Path, typer.Option(help="New or empty directory for the edited model.")]
StandIn: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Replacement for removed components: mean, zero or optimal. Default: mean if the checkpoint can store it, else zero."
    ),
]
Text: TypeAlias = Annotated[Path | None, typer.Option(help="Text file for perplexity. Default: a short text of the package.")]
EvalExamples: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help="Number of evaluation pairs per task. Default: the run's test prompts; for other tasks 64, or the rest of a file."
    ),
]
Seed: TypeAlias = Annotated[int | None, typer.Option(help="Random seed for prompts. Default: as recorded.")]
CapabilityMetric: TypeAlias = Annotated[
    str | None, typer.Option(help="Metric of the capability. Default: as recorded, or logit_difference.")
]
Prompts: TypeAlias = Annotated[
    str | None, typer.Option("--task", "-t", help="Task: built-in name or .jsonl file. Default: as recorded.")
]


@dataclass(frozen=True, eq=False)
class Material:
    """The inputs of an edit.

    Args:
        found: prompts of the circuit's task for the edit.
        retain: prompts of the retained tasks for the edit.
        held_out: other prompts of the same tasks, for the evaluation.
        metric: metric of the capability; None if the recorded metric cannot measure the share that is left.
    """

    circuit: "Circuit"
    model: "Transformer"
    found: "Task"
    retain: "tuple[Task, ...]"
    held_out: "HeldOut"
    metric: str | None


@dataclass(frozen=True, eq=False)
class Drawing:
    """Settings for the prompts of an edit and the prompts of its evaluation.

    Args:
        examples, eval_examples: the number of each; None for the default.
    """

    model: "Transformer"
    examples: int | None
    eval_examples: int | None
    seed: int
    bos: "BosPolicy"

    def of(self, name: str, own: "Split | None", say: "Callable[[str], None]") -> "tuple[Task, Task]":
        """A task's prompts for the edit and its prompts for the evaluation, with none in common.

        Args:
            own: the split of the run, whose test prompts evaluate the edit; None draws new prompts.
            say: called with a warning if there are fewer prompts than requested.
        """
        from subcircuit.tasks import is_prompt_file, load_at_most, load_task, load_two, without

        if own is None or own.test is None:
            others = EVAL_EXAMPLES if self.eval_examples is None else self.eval_examples
            named = {"examples": self.examples, "default": EXAMPLES, "others": others}
            return load_two(name, self.model, **named, seed=self.seed, bos=self.bos)
        judging, count = unseen(own, name, self.eval_examples, self.model), self.examples or EXAMPLES
        # all test prompts are excluded, even if only some are requested
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
    """The level and replacement of an edit, from their names.

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
    """Load the circuit, its model and all prompts.

    Raises:
        SubcircuitError: an input is missing or invalid, or the model is not the circuit's.
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
    """Print the table before and after the edit; print missed targets to standard error."""
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
    from subcircuit.tasks import bos_policy

    return bos_policy("auto" if circuit.record is None else str(circuit.record.task.parameters.get("bos", "auto")))
