"""``subcircuit keep``: a model of which nothing is left but a circuit."""

from typing import Annotated

import typer

from subcircuit.cli.arguments import CircuitDir, Device, DtypeNow, JsonTable, ModelNow, RevisionNow
from subcircuit.cli.editing import HOW_MANY, CapabilityMetric, EvalExamples, Out, Prompts, Seed, StandIn, Text


def keep(
    path: CircuitDir,
    out: Out,
    level: Annotated[
        str, typer.Option(help="node: the circuit's heads and MLPs with all that they read. edge: its edges alone, as a wrapper.")
    ] = "node",
    ablation: StandIn = None,
    retain: Annotated[list[str] | None, typer.Option(help="Another task to measure, by name or file; may be repeated.")] = None,
    text: Text = None,
    examples: Annotated[
        int | None, typer.Option(help=f"Pairs of prompts that means are taken over. Default: {HOW_MANY}.")
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
    """Keep nothing of a model but a circuit, and save what remains.

    Writes a checkpoint that transformers loads (or, for edges, a wrapper), and edit.json, edit.csv and edit.png.
    """
    from subcircuit.cli.console import messages
    from subcircuit.cli.editing import material, means_named, show
    from subcircuit.cli.problem import Overrides
    from subcircuit.cli.progress import watch
    from subcircuit.edit import keep as keep_only
    from subcircuit.report import new_directory, write_kept

    means, directory = means_named(level, ablation), new_directory(out, "keep", "model")
    given = Overrides(model, revision, device, dtype, task, examples, seed, metric, None)
    with watch(messages()) as watcher:
        m = material(path, given, retain or (), eval_examples, text, watcher.say)
        edit, fill = keep_only(m.model, m.circuit, m.found, retain=m.retain, means=means, on_round=watcher.step)
        watcher.say(f"removed {len(edit.names):,} {level}s")
        report = write_kept(edit, fill, directory, m.circuit, m.held_out, watcher.say, watcher.step)
    show(report, directory, json)
