"""``subcircuit show``: the summary of a circuit on disk."""

from pathlib import Path
from typing import Annotated

import typer


def show(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="A directory that `subcircuit discover` wrote, or a circuit file.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")] = False,
) -> None:
    """Show the summary of a saved circuit again, and where its pictures are."""
    from subcircuit.cli.summary import print_run
    from subcircuit.graph import Circuit

    print_run(path, Circuit.load(path), as_json=json)
