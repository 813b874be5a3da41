"""``subcircuit remove``: take the capability of a circuit out of its model."""

from typing import TYPE_CHECKING, Annotated

import typer

from subcircuit.cli.arguments import CircuitDir, Device, DtypeNow, JsonTable, ModelNow, RevisionNow
from subcircuit.cli.editing import HOW_MANY, CapabilityMetric, EvalExamples, Out, Prompts, Seed, StandIn, Text

MISSED = 1
"""Exit code: the work is done, and what was asked for was not reached."""

if TYPE_CHECKING:
    from collections.abc import Callable

    from subcircuit.cli.editing import Material
    from subcircuit.edit import RemovalStep


def remove(
    path: CircuitDir,
    out: Out,
    level: Annotated[
        str, typer.Option(help="node: heads and MLPs, out of the weights. edge: edges, cut behind a wrapper.")
    ] = "node",
    ablation: StandIn = None,
    retain: Annotated[list[str] | None, typer.Option(help="A task that is to stay, by name or file; may be repeated.")] = None,
    target: Annotated[float, typer.Option(help="Share of the capability that may be left.")] = 0.1,
    floor: Annotated[float, typer.Option(help="Share of each retained task that is to stay.")] = 0.9,
    width: Annotated[int, typer.Option(help="Parts that are measured in each step of the search.")] = 8,
    relearn: Annotated[int, typer.Option(help="Steps of fine-tuning that try to bring the capability back; 0: none.")] = 16,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of this fine-tuning. Default: the smallest that moves the untouched model.")
    ] = None,
    text: Text = None,
    examples: Annotated[int | None, typer.Option(help=f"Pairs of prompts a task to search with. Default: {HOW_MANY}.")] = None,
    eval_examples: EvalExamples = None,
    seed: Seed = None,
    metric: CapabilityMetric = None,
    model: ModelNow = None,
    task: Prompts = None,
    device: Device = None,
    dtype: DtypeNow = None,
    revision: RevisionNow = None,
    json: JsonTable = False,
) -> None:
    """Remove the smallest part of a circuit that takes its capability away, and save the model without it.

    Writes a checkpoint that transformers loads (or, for edges, a wrapper), and edit.json, edit.csv, tradeoff.csv and edit.png.
    Judged on prompts that the search did not see: exit code 1 where more of the capability is left than --target.
    """
    from subcircuit.cli.console import messages
    from subcircuit.cli.editing import material, means_named, show
    from subcircuit.cli.problem import Overrides
    from subcircuit.cli.progress import watch
    from subcircuit.edit import Relearning, RemovalSearch
    from subcircuit.edit import remove as take_out
    from subcircuit.report import new_directory, write_removal

    # what can be refused is refused before anything large is loaded
    means, settings = means_named(level, ablation), RemovalSearch(target, floor, width=width)
    relearning = Relearning(relearn, learning_rate)
    directory = new_directory(out, "remove", "model")
    given = Overrides(model, revision, device, dtype, task, examples, seed, metric, None)
    with watch(messages()) as watcher:
        m = material(path, given, retain or (), eval_examples, text, watcher.say)
        watcher.say(
            f"searching for the smallest removal from {m.circuit.n_edges:,} edges that leaves at most {target:.0%} of the task"
        )
        found = take_out(
            m.model,
            m.circuit,
            m.found,
            retain=m.retain,
            means=means,
            metric=m.metric,
            settings=settings,
            on_step=_tell(m, watcher.say),
            on_round=watcher.step,
        )
        if not found.floor_held:
            watcher.say(f"warning: no removal was found that leaves {floor:.0%} of every retained task; see tradeoff.csv")
        report = write_removal(found, directory, m.circuit, m.held_out, relearning, watcher.say, watcher.step)
    show(report, directory, json)
    if not report.target_reached:
        raise typer.Exit(MISSED)


def _tell(m: "Material", say: "Callable[[str], None]") -> "Callable[[RemovalStep], None]":
    """Says of each point of the search what has gone, and what is left of every task."""
    from subcircuit.report import list_of

    names = (m.found.name, *(other.name for other in m.retain))

    def told(point: "RemovalStep") -> None:
        shares = zip(names, (point.target, *point.retained), strict=True)
        what = "whole model" if not point.changed else f"{'back' if point.back else 'out'}: {list_of(point.changed, 6)}"
        say(f"{point.removed:>4} removed  {', '.join(f'{name} {share:z.1%}' for name, share in shares)}  {what}")

    return told
