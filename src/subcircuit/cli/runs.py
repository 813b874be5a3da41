"""``subcircuit resume``, ``runs`` and ``verify``: runs that were begun."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from subcircuit.cli.arguments import JsonSummary, JsonTable
from subcircuit.cli.pool import PANEL, Ray

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from subcircuit.cli.journal import Begun

_RUN = typer.Argument(metavar="DIR", help="A directory that `discover`, `zoom`, `sweep` or `validate` wrote.")


def resume(
    path: Annotated[Path, _RUN],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Where the model is, if it was given as a path.")] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Where the prompt file is.")] = None,
    circuit: Annotated[
        Path | None, typer.Option(help="Where the circuit is now that `zoom` looked into. Default: beside the run.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Another threshold; with --fork.")] = None,
    edges: Annotated[str | None, typer.Option(help="Another number of edges; with --fork.")] = None,
    fork: Annotated[
        Path | None, typer.Option(help="Leave the run as it is and begin another in this directory, with what it can use of it.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that work together. Default: as many as began the run.", rich_help_panel=PANEL)
    ] = None,
    ray: Ray = None,
    json: JsonSummary = False,
) -> None:
    """Go on with what was stopped: the result is that of a run that was not, to the last bit."""
    from subcircuit.cli.journal import Begun
    from subcircuit.cli.summary import print_run
    from subcircuit.errors import RunError, SettingsError
    from subcircuit.graph import Circuit
    from subcircuit.report import new_directory
    from subcircuit.runs import damage, read_run

    given = {"model": model, "task": task, "path": circuit, "threshold": threshold, "edges": edges}
    changes = {name: value for name, value in given.items() if value is not None}
    by_whom = {name: value for name, value in {"workers": workers, "ray": ray}.items() if value is not None}
    begun = read_run(path)
    go_on, asked = _asked_of(path, begun["asked"])
    if foreign := [name for name in {**changes, **by_whom} if name not in asked]:
        option = "circuit" if foreign[0] == "path" else foreign[0]
        raise SettingsError(f"--{option}: {path} is of subcircuit {asked['command']}, which has none")
    done = (path / "checksums.json").exists() and fork is None
    if done and (broken := damage(path)):
        raise RunError("; ".join(broken))
    if done and not changes and (path / "circuit.json").exists():
        print_run(path, Circuit.load(path), as_json=json)
        return
    changes = {**_places(path, begun, set(changes)), **changes}
    if "path" in asked:
        # of what was looked into, the last part of the path is recorded
        changes.setdefault("path", path.absolute().parent / asked["path"])
    go_on(
        {**asked, **changes, **by_whom, "json": json}, Begun(path) if fork is None else Begun(new_directory(fork, "", ""), path)
    )


def _places(path: Path, begun: "Mapping[str, Any]", given: "Collection[str]") -> dict[str, Any]:
    """Where the model and the prompts of a run are now that the user does not give, found again by their digests."""
    from subcircuit.errors import RunError
    from subcircuit.runs import run_sources

    places = {name: place for name, place in run_sources(path, begun["asked"], begun["found"]).items() if name not in given}
    for name, place in places.items():
        if place is None:
            raise RunError(
                f"{path} was begun with {begun['asked'][name]}, of which nothing near the run or the working directory has the digest: "
                f"give --{name} PATH"
            )
    return places


def _asked_of(path: Path, asked: Any) -> "tuple[Callable[[dict[str, Any], Begun], None], dict[str, Any]]":
    """How a run goes on, and the options that it was begun with, each of the type that its command gives it."""
    from pydantic import TypeAdapter, ValidationError

    from subcircuit.cli import discover, refine, sweep, validate, zoom
    from subcircuit.errors import RunError

    commands: dict[str, tuple[Any, Callable[[dict[str, Any], Begun], None]]] = {
        "discover": (discover.discover, discover.search_for),
        "refine": (refine.refine, refine.refine_for),
        "zoom": (zoom.zoom, zoom.zoom_for),
        "sweep": (sweep.sweep, sweep.sweep_for),
        "validate": (validate.validate, validate.validate_for),
    }
    command = asked.get("command") if isinstance(asked, dict) else None
    if not isinstance(command, str) or command not in commands:
        raise RunError(f"{path} is of a command that cannot be resumed: {str(command)[:40]!r}. Nothing was touched.")
    begin, go_on = commands[command]
    types = {name: kind for name, kind in get_type_hints(begin, include_extras=True).items() if name not in ("return", "config")}
    try:
        options = {name: TypeAdapter(kind).validate_python(asked.get(name)) for name, kind in types.items()}
    except ValidationError as error:
        raise RunError(f"{path / 'run.json'} is damaged: {error.errors()[0]['msg']}. Nothing was touched.") from None
    return go_on, {"command": command, **options}


def runs(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Where runs are.")] = Path("runs"),
    json: JsonTable = False,
) -> None:
    """List the runs in a directory: done, running or stopped."""
    from subcircuit.cli.console import plain, print_json, print_records, results
    from subcircuit.runs import list_runs

    found = list_runs(path)
    names = ("run", "state", "command", "method", "model", "task", "units done")
    rows = [(str(r.path), r.state, *_described(r.asked), f"{r.units:,}") for r in found]
    if json:
        print_json({"runs": [dict(zip(("path", *names[1:]), row, strict=True)) for row in rows]})
    elif rows:
        print_records(names, rows, results())
    else:
        results().print(plain(f"no runs in {path}"))


def _described(asked: "Mapping[str, Any]") -> tuple[str, ...]:
    """Command, method, model and task of a run, as far as it has them; values of any kind, as its file may be damaged."""
    several, task = asked.get("methods"), asked.get("task") or asked.get("case") or ""
    methods = several if isinstance(several, list) and several else [several or asked.get("method") or ""]
    inside = f"{asked['path']} {asked.get('component')}" if "path" in asked else ""
    return (str(asked.get("command")), ", ".join(map(str, methods)), str(asked.get("model") or ""), str(inside or task))


def verify(path: Annotated[Path, _RUN]) -> None:
    """Check that a run is as it was written, to the last bit, and name what is not."""
    from subcircuit.cli.console import plain, results
    from subcircuit.errors import RunError
    from subcircuit.runs import damage

    if broken := damage(path):
        raise RunError("; ".join(broken))
    results().print(plain(f"{path}: intact"), soft_wrap=True)
