"""``subcircuit show``: the summary of a circuit on disk, and other circuits of its refinement path."""

from pathlib import Path
from typing import Annotated

import typer

from subcircuit.cli.arguments import CircuitDir, JsonSummary


def show(
    path: CircuitDir,
    edges: Annotated[
        int | None,
        typer.Option(help="Largest number of edges: show that circuit of the refinement path. Default: the chosen circuit."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="New or empty directory for the circuit of --edges. Default: show only.")
    ] = None,
    json: JsonSummary = False,
) -> None:
    """Show the summary of a saved circuit and the paths of its pictures."""
    from subcircuit.cli.summary import print_point, print_run
    from subcircuit.errors import SettingsError
    from subcircuit.graph import Circuit, load_path

    circuit = Circuit.load(path)
    if edges is None:
        if out is not None:
            raise SettingsError("--out needs --edges, which selects another circuit of the refinement path")
        print_run(path, circuit, as_json=json)
        return
    steps = load_path(path if path.is_dir() else path.parent, circuit.graph)
    point = steps.at(edges)
    if out is not None:
        from subcircuit.report import write_run

        write_run(steps.circuit(point, circuit.record), out)
    print_point(point, out, as_json=json)
