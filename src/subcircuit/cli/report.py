"""``subcircuit report``: circuits as one HTML file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subcircuit.cli.arguments import Device, ModelNow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from subcircuit.cli.problem import Overrides
    from subcircuit.report.page import Shown
    from subcircuit.search import Problem


def report(
    paths: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Circuit, or several circuits of one graph to compare.")],
    out: Annotated[Path, typer.Option(help="New file for the page.")] = Path("circuit.html"),
    model: ModelNow = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Task: built-in name or .jsonl file. Default: as recorded.")
    ] = None,
    examples: Annotated[int | None, typer.Option(help="Number of pairs of prompts. Default: as many as in the search.")] = None,
    points: Annotated[int, typer.Option(help="Number of circuit sizes to measure.")] = 12,
    most_edges: Annotated[int, typer.Option(help="Largest number of edges in the file, unless the circuit has more.")] = 10_000,
    graph_only: Annotated[
        bool, typer.Option("--graph-only", help="Write the graph without prompts and measurements; needs no model.")
    ] = False,
    device: Device = None,
) -> None:
    """Write one HTML file with the circuit, its prompts, attention patterns and faithfulness by size.

    The page opens from disk and offline.
    """
    from subcircuit.cli.circuits import shown_circuits
    from subcircuit.cli.console import messages, plain, results
    from subcircuit.cli.problem import Overrides
    from subcircuit.cli.progress import watch
    from subcircuit.errors import OutputError, SettingsError
    from subcircuit.report.page import report_document, write_report

    if points < 2 or most_edges < 0:
        raise SettingsError(f"--points {points} --most-edges {most_edges}: points must be at least 2, edges at least 0")
    if out.exists():
        raise OutputError(f"{out} exists and was not changed: choose another path with --out")
    circuits = shown_circuits(paths)
    given = Overrides(model=model, device=device, task=task, examples=examples)
    with watch(messages()) as watcher:
        problems = [None] * len(paths) if graph_only else _problems(paths, circuits, given, watcher.say)
        content = report_document(circuits, problems, most_edges=most_edges, points=points, say=watcher.say, on_step=watcher.step)
    size = write_report(content, out).stat().st_size
    results().print(plain(f"report   {out}   {size / 1e6:.1f} MB"), soft_wrap=True)


def _problems(
    paths: "Sequence[Path]", circuits: "Sequence[Shown]", given: "Overrides", say: "Callable[[str], None]"
) -> "list[Problem | None]":
    from subcircuit.cli.problem import to_look_at

    return [to_look_at(path, shown.circuit, given, say) for path, shown in zip(paths, circuits, strict=True)]
