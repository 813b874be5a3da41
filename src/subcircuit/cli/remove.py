"""``subcircuit remove``: remove the capability of a circuit from its model."""

from typing import TYPE_CHECKING, Annotated

import typer

from subcircuit.cli.arguments import CircuitDir, Device, DtypeNow, JsonTable, ModelNow, RevisionNow
from subcircuit.cli.editing import HOW_MANY, CapabilityMetric, EvalExamples, Out, Prompts, Seed, StandIn, Text

MISSED = 1
"""Exit code of an edit that was saved but missed its target."""

if TYPE_CHECKING:
    from collections.abc import Callable

    from subcircuit.cli.editing import Material
    from subcircuit.cli.progress import Watcher
    from subcircuit.edit import Means, Removal, RemovalSearch, RemovalStep


def remove(
    path: CircuitDir,
    out: Out,
    level: Annotated[
        str,
        typer.Option(help="Level of the edit: node (remove heads and MLPs from the weights) or edge (cut edges in a wrapper)."),
    ] = "node",
    ablation: StandIn = None,
    retain: Annotated[list[str] | None, typer.Option(help="Task to retain: name or file; repeat for several.")] = None,
    target: Annotated[float, typer.Option(help="Largest share of the capability that may be left.")] = 0.1,
    floor: Annotated[float, typer.Option(help="Smallest share of each retained task that must stay.")] = 0.9,
    width: Annotated[int, typer.Option(help="Number of parts measured per step of the search.")] = 8,
    relearn: Annotated[
        int, typer.Option(help="Number of fine-tuning steps that try to bring the capability back; 0 for none.")
    ] = 16,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Learning rate of this fine-tuning. Default: the smallest that changes the original model."),
    ] = None,
    text: Text = None,
    examples: Annotated[
        int | None, typer.Option(help=f"Number of pairs of prompts per task for the search. Default: {HOW_MANY}.")
    ] = None,
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
    """Find the smallest part of a circuit whose removal ends its capability, and save the edited model.

    Writes a checkpoint that transformers loads (or, for edges, a wrapper), and edit.json, edit.csv, tradeoff.csv and edit.png.
    The edit is evaluated on prompts outside its search. Exit code 1: more of the capability is left than --target.
    """
    from subcircuit.cli.console import messages
    from subcircuit.cli.editing import material, means_named, show
    from subcircuit.cli.problem import Overrides
    from subcircuit.cli.progress import watch
    from subcircuit.edit import Relearning, RemovalSearch
    from subcircuit.report import new_directory, write_removal

    # invalid options are refused before the model is loaded
    means, settings = means_named(level, ablation), RemovalSearch(target, floor, width=width)
    relearning = Relearning(relearn, learning_rate)
    directory = new_directory(out, "remove", "model")
    given = Overrides(model, revision, device, dtype, task, examples, seed, metric, None)
    with watch(messages()) as watcher:
        m = material(path, given, retain or (), eval_examples, text, watcher.say)
        found = _search(m, means, settings, watcher)
        report = write_removal(found, directory, m.circuit, m.held_out, relearning, watcher.say, watcher.step)
    show(report, directory, json)
    if not report.target_reached:
        raise typer.Exit(MISSED)


def _search(m: "Material", means: "Means", settings: "RemovalSearch", watcher: "Watcher") -> "Removal":
    from subcircuit.edit import remove as take_out

    watcher.say(
        f"searching for the smallest removal from {m.circuit.n_edges:,} edges that leaves at most {settings.target:.0%} of the task"
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
        watcher.say(f"warning: no removal was found that leaves {settings.floor:.0%} of every retained task; see tradeoff.csv")
    return found


def _tell(m: "Material", say: "Callable[[str], None]") -> "Callable[[RemovalStep], None]":
    """A callback that prints, for each point of the search, the removed part and the share left of every task."""
    from subcircuit.report import list_of

    names = (m.found.name, *(other.name for other in m.retain))

    def told(point: "RemovalStep") -> None:
        shares = zip(names, (point.target, *point.retained), strict=True)
        what = "whole model" if not point.changed else f"{'back' if point.back else 'out'}: {list_of(point.changed, 6)}"
        say(f"{point.removed:>4} removed  {', '.join(f'{name} {share:z.1%}' for name, share in shares)}  {what}")

    return told
