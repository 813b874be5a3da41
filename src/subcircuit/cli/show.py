"""``subcircuit show``: the summary of a circuit on disk, and other sizes from the path of its refinement."""

from pathlib import Path
from typing import Annotated

import typer

from subcircuit.cli.arguments import CircuitDir, JsonSummary


def show(
    path: CircuitDir,
    edges: Annotated[
        int | None, typer.Option(help="The circuit of at most so many edges from the refinement's path. Default: the one chosen.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New or empty directory for it. Default: it is shown alone.")] = None,
    json: JsonSummary = False,
) -> None:
    """Show the summary of a saved circuit again, and where its pictures are."""
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
