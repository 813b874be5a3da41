"""What ``remove`` and ``keep`` have in common: a circuit with its model, prompts to edit with, and others to judge with."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from subcircuit.cli.recorded import Overrides, ready, task_named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from subcircuit.edit import Means
    from subcircuit.graph import Circuit
    from subcircuit.model import Transformer
    from subcircuit.report import EditReport, HeldOut
    from subcircuit.tasks import BosPolicy, Task

EXAMPLES, EVAL_EXAMPLES = 24, 64
HOW_MANY = f"{EXAMPLES}, or half where there are fewer"

Out: TypeAlias = Annotated[Path, typer.Option(help="New or empty directory for the edited model.")]
StandIn: TypeAlias = Annotated[
    str | None, typer.Option(help="What stands in for what is gone: mean, zero, optimal. Default: mean, or zero.")
]
Text: TypeAlias = Annotated[Path | None, typer.Option(help="Text for perplexity. Default: a short one of the package's own.")]
EvalExamples: TypeAlias = Annotated[int, typer.Option(help="Other pairs of prompts a task to judge with.")]
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
    eval_examples: int,
    text: Path | None,
    say: "Callable[[str], None]",
) -> Material:
    """Load and draw everything.

    Raises:
        SubcircuitError: something cannot be had; a model that is not the circuit's, above all.
    """
    from subcircuit.edit import Probe, Texts, check_same_model, read_text
    from subcircuit.report import HeldOut
    from subcircuit.tasks import check_task, load_two

    content = None if text is None else read_text(text)
    for other in retain:
        check_task(other)
    # its evaluation prompts are not the ones that are used here, nor is what it says of them
    circuit, model, behaviour, _ = ready(path, given, EXAMPLES, lambda line: None if _of_prompts(line) else say(line))
    check_same_model(circuit, model)
    recorded = 0 if circuit.record is None else circuit.record.seed
    seed, bos = recorded if given.seed is None else given.seed, _bos(circuit)
    pairs = [
        load_two(each, model, examples=given.examples, default=EXAMPLES, others=eval_examples, seed=seed, bos=bos)
        for each in (task_named(path, circuit, given), *dict.fromkeys(retain))
    ]
    found, others = [task for task, _ in pairs], [other for _, other in pairs]
    metric = given.metric or (behaviour.metric.name if _tells(behaviour.metric) else None)
    probes = [Probe.of(model, others[0], metric), *(Probe.of(model, other) for other in others[1:])]
    held_out = HeldOut(probes[0], tuple(probes[1:]), Texts.of(model, content, bos))
    return Material(circuit, model, found[0], tuple(found[1:]), held_out, metric)


def _of_prompts(line: str) -> bool:
    return any(words in line for words in ("flatter", "cannot be made again", "were asked for"))


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
