"""``subcircuit keep``: a model of which nothing is left but a circuit."""

from pathlib import Path
from typing import Annotated

import typer

from subcircuit.cli.editing import EVAL_EXAMPLES, EXAMPLES


def keep(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="A directory that `subcircuit discover` wrote, or a circuit file.")],
    out: Annotated[Path, typer.Option(help="New or empty directory for the edited model.")],
    level: Annotated[
        str, typer.Option(help="node: the circuit's heads and MLPs with all that they read. edge: its edges alone, as a wrapper.")
    ] = "node",
    ablation: Annotated[
        str | None, typer.Option(help="What stands in for what is gone: mean, zero, optimal. Default: mean, or zero.")
    ] = None,
    retain: Annotated[list[str] | None, typer.Option(help="Another task to measure, by name or file; may be repeated.")] = None,
    text: Annotated[Path | None, typer.Option(help="Text for perplexity. Default: a short one of the package's own.")] = None,
    examples: Annotated[
        int | None, typer.Option(help=f"Pairs of prompts that means are taken over. Default: {EXAMPLES}.")
    ] = None,
    eval_examples: Annotated[int, typer.Option(help="Other pairs of prompts a task to judge with.")] = EVAL_EXAMPLES,
    seed: Annotated[int | None, typer.Option(help="Of the prompts. Default: as recorded.")] = None,
    metric: Annotated[str | None, typer.Option(help="Of the capability. Default: as recorded, or logit_difference.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Where the model is now. Default: as recorded.")] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Where the prompts are. Default: as recorded.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, … Default: cuda where there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Default: as recorded.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a model on the hub. Default: as recorded.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Keep nothing of a model but a circuit, and save what remains.

    Writes a checkpoint that transformers loads (or, for edges, a wrapper), and edit.json, edit.csv and edit.png.
    """
    from subcircuit.cli.console import messages
    from subcircuit.cli.editing import material, means_named, show
    from subcircuit.cli.progress import watch
    from subcircuit.cli.recorded import Overrides
    from subcircuit.edit import keep as keep_only
    from subcircuit.report import new_directory, write_kept

    means, directory = means_named(level, ablation), new_directory(out, "keep", "model")
    given = Overrides(model, revision, device, dtype, task, examples, seed, metric, None)
    with watch(messages()) as watcher:
        m = material(path, given, retain or (), eval_examples, text, watcher.say)
        edit, fill = keep_only(m.model, m.circuit, m.found, retain=m.retain, means=means, on_round=watcher.step)
        watcher.say(f"{len(edit.names):,} {level}s are gone")
        report = write_kept(edit, fill, directory, m.circuit, m.held_out, watcher.say)
    show(report, directory, json)
