"""``subcircuit resume``, ``runs`` and ``verify``: runs that were begun."""

from pathlib import Path
from typing import Annotated

import typer

_RUN = typer.Argument(metavar="DIR", help="A directory that `subcircuit discover` wrote.")


def resume(
    path: Annotated[Path, _RUN],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Where the model is, if it was given as a path.")] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Where the prompt file is.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Another threshold; with --fork.")] = None,
    edges: Annotated[str | None, typer.Option(help="Another number of edges; with --fork.")] = None,
    fork: Annotated[
        Path | None, typer.Option(help="Leave the run as it is and begin another in this directory, with what it can use of it.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")] = False,
) -> None:
    """Go on with a search that was stopped: the result is that of one that was not, to the last bit."""
    from subcircuit.cli.discover import search_for
    from subcircuit.cli.summary import print_run
    from subcircuit.errors import RunError
    from subcircuit.graph import Circuit
    from subcircuit.report import new_directory
    from subcircuit.runs import damage, read_run

    asked = read_run(path)["asked"]
    changes = {"model": model, "task": task, "threshold": threshold, "edges": edges}
    wanted = {**asked, **{name: value for name, value in changes.items() if value is not None}, "json": json}
    if fork is not None:
        search_for(wanted, new_directory(fork, "", ""), path)
        return
    if (path / "checksums.json").exists() and wanted == {**asked, "json": json}:
        if broken := damage(path):
            raise RunError("; ".join(broken))
        print_run(path, Circuit.load(path), as_json=json)
        return
    search_for(wanted, path)


def runs(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Where runs are.")] = Path("runs"),
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """List the runs in a directory: done, running or stopped."""
    from subcircuit.cli.console import plain, print_json, print_table, results
    from subcircuit.runs import list_runs

    found = list_runs(path)
    names = ("run", "state", "method", "model", "task", "units done")
    rows = [(str(r.path), r.state, *(str(r.asked.get(n)) for n in ("method", "model", "task")), f"{r.units:,}") for r in found]
    if json:
        print_json({"runs": [dict(zip(("path", *names[1:]), row, strict=True)) for row in rows]})
    elif rows:
        print_table(names, rows, results())
    else:
        results().print(plain(f"no runs in {path}"))


def verify(path: Annotated[Path, _RUN]) -> None:
    """Check that a run is as it was written, to the last bit, and name what is not."""
    from subcircuit.cli.console import plain, results
    from subcircuit.errors import RunError
    from subcircuit.runs import damage

    if broken := damage(path):
        raise RunError("; ".join(broken))
    results().print(plain(f"{path}: intact"), soft_wrap=True)
