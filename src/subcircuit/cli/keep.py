"""``subcircuit keep``: a model reduced to a circuit."""

from typing import Annotated

import typer

from subcircuit.cli.arguments import CircuitDir, Device, DtypeNow, JsonTable, ModelNow, RevisionNow
from subcircuit.cli.editing import HOW_MANY, CapabilityMetric, EvalExamples, Out, Prompts, Seed, StandIn, Text


def keep(
    path: CircuitDir,
    out: Out,
    level: Annotated[
        str,
        typer.Option(
            help="Level of the edit: node (keep the circuit's heads and MLPs with all their inputs) or edge (keep only its edges, "
            "in a wrapper)."
        ),
    ] = "node",
    ablation: StandIn = None,
    retain: Annotated[list[str] | None, typer.Option(help="Other task to measure: name or file; repeat for several.")] = None,
    text: Text = None,
    examples: Annotated[int | None, typer.Option(help=f"Number of pairs of prompts for the means. Default: {HOW_MANY}.")] = None,
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
    """Keep only a circuit of a model, and save the model.

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
