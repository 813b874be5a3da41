"""``subcircuit zoom``: continue a finished search inside one node of its circuit."""

from pathlib import Path
from typing import Annotated

import typer


def zoom(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="A directory that `subcircuit discover` or `zoom` wrote.")],
    component: Annotated[str, typer.Argument(metavar="NODE", help="A block, head or MLP of the circuit: a9, a9.h3, m5.")],
    into: Annotated[str, typer.Option(help="How to resolve it: head or qkv (blocks), qkv (heads), neuron or expert (MLPs).")],
    threshold: Annotated[
        float | None, typer.Option(help="An edge whose cut changes the metric by less is cut. Default: that of the search.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Where the model is now. Default: as recorded.")] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Where the prompts are now. Default: as recorded.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, … Default: cuda where there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Default: as recorded.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a model on the hub. Default: as recorded.")] = None,
    out: Annotated[Path | None, typer.Option(help="New or empty directory. Default: runs/<task>-<model>-<number>.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")] = False,
) -> None:
    """Look inside one node: search its parts' edges, all other edges staying as they are.

    Works on the prompts of the search with the edges of any method's circuit. Writes a directory as `discover` does.
    """
    from subcircuit.cli.console import messages
    from subcircuit.cli.progress import watch
    from subcircuit.cli.recorded import Overrides, as_found
    from subcircuit.cli.summary import print_run
    from subcircuit.errors import SettingsError
    from subcircuit.graph import Circuit
    from subcircuit.report import new_directory, write_run
    from subcircuit.search import Acdc, look_inside

    circuit = Circuit.load(path)
    record = circuit.record
    if threshold is None:
        known = None if record is None or record.method.name != "acdc" else record.method.parameters.get("threshold")
        if not isinstance(known, float | int):
            raise SettingsError(f"{path} was not found with a threshold: give --threshold")
        threshold = float(known)
    directory = new_directory(out, record.task.name if record else "circuit", record.model.name if record else "model")
    with watch(messages()) as watcher:
        given = Overrides(model=model, revision=revision, device=device, dtype=dtype, task=task)
        transformer, behaviour = as_found(path, circuit, given, watcher.say)
        watcher.say(f"looking into {component} on the {len(behaviour.task)} pairs of prompts of the search")
        result = look_inside(transformer, circuit, component, into, behaviour, Acdc(threshold), watcher.step)
    print_run(write_run(result.circuit, directory), result.circuit, as_json=json)
