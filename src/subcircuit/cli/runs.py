"""``subcircuit resume``, ``runs`` and ``verify``: run directories."""

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit.cli.arguments import JsonSummary, JsonTable
from subcircuit.cli.pool import PANEL, Ray

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from subcircuit.cli.output import Output
    from subcircuit.runs import Listed, RunFile, Spec

_RUN = typer.Argument(metavar="DIR", help="Run: a directory that `discover`, `refine`, `zoom`, `sweep` or `validate` wrote.")


def resume(
    path: Annotated[Path, _RUN],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Current path of the model, if it was given as a path.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Current path of the prompt file.")] = None,
    circuit: Annotated[
        Path | None, typer.Option(help="Current path of the circuit of a `zoom` or `refine`. Default: beside the run.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="New threshold; needs --fork.")] = None,
    edges: Annotated[str | None, typer.Option(help="New number of edges; needs --fork.")] = None,
    fork: Annotated[
        Path | None, typer.Option(help="Directory of a new run that reuses the work of this run; this run does not change.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of worker processes. Default: as recorded.", rich_help_panel=PANEL)
    ] = None,
    ray: Ray = None,
    json: JsonSummary = False,
) -> None:
    """Resume an interrupted run. The result is bit-identical to that of an uninterrupted one."""
    from subcircuit.cli.output import Output
    from subcircuit.cli.summary import print_run
    from subcircuit.errors import RunError, SettingsError
    from subcircuit.graph import Circuit
    from subcircuit.report import new_directory
    from subcircuit.runs import damage, read_run

    given = {"model": model, "task": task, "path": circuit, "threshold": threshold, "edges": edges}
    changes = {name: value for name, value in given.items() if value is not None}
    processes = {name: value for name, value in {"workers": workers, "ray": ray}.items() if value is not None}
    run = read_run(path)
    try:
        spec = run.spec
    except SettingsError as error:
        raise RunError(f"{path / 'run.json'} is damaged: {error}. Nothing was changed.") from None
    fields = type(spec).model_fields
    if foreign := [name for name in changes if name not in fields]:
        option = "circuit" if foreign[0] == "path" else foreign[0]
        raise SettingsError(f"--{option}: {path} is a run of subcircuit {spec.command}, which has no such option")
    done = (path / "checksums.json").exists() and fork is None
    if done and (broken := damage(path)):
        raise RunError("; ".join(broken))
    if done and not changes and (path / "circuit.json").exists():
        print_run(path, Circuit.load(path), as_json=json)
        return
    changes = {**_sources(path, run, set(changes)), **changes}
    if "path" in fields:
        # the recorded path of the circuit is its last part
        changes.setdefault("path", path.absolute().parent / run.fields["path"])
    output = (
        Output(json=json, resumed=path) if fork is None else Output(json=json, resumed=new_directory(fork, "", ""), source=path)
    )
    _resume(spec.changed(**changes, **processes), output)


def _sources(path: Path, run: "RunFile", given: "Collection[str]") -> dict[str, Any]:
    """The current paths of the model and the prompts of a run, found by their digests, unless the user gives them."""
    from subcircuit.errors import RunError
    from subcircuit.runs import run_sources

    sources = {name: source for name, source in run_sources(path, run.fields, run.identity).items() if name not in given}
    for name, source in sources.items():
        if source is None:
            raise RunError(
                f"{path} was started with {run.fields[name]}, and no file near the run or the working directory has its digest: "
                f"give --{name} PATH"
            )
    return sources


def _resume(spec: "Spec", output: "Output") -> None:
    """Run the command of a spec."""
    from subcircuit.cli import discover, refine, stability, sweep, validate, zoom
    from subcircuit.runs import DiscoverSpec, RefineSpec, StabilitySpec, SweepSpec, ValidateSpec, ZoomSpec

    match spec:
        case DiscoverSpec():
            discover.discover(spec, output)
        case RefineSpec():
            refine.refine_run(spec, output)
        case ZoomSpec():
            zoom.look_inside_node(spec, output)
        case StabilitySpec():
            stability.stability_run(spec, output)
        case SweepSpec():
            sweep.sweep_run(spec, output)
        case ValidateSpec():
            validate.validate_run(spec, output)
        case _:
            raise AssertionError(f"no command makes runs of {type(spec).__name__}")


def runs(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of runs.")] = Path("runs"),
    json: JsonTable = False,
) -> None:
    """List the runs in a directory with their state, edges, faithfulness on test prompts, and date."""
    from subcircuit.cli.console import plain, print_json, print_records, results
    from subcircuit.runs import list_runs

    found = [(run, *_described(run.fields)) for run in list_runs(path)]
    if json:
        names = ("command", "method", "model", "task")
        print_json({"runs": [{**_numbers(run), **dict(zip(names, told, strict=True))} for run, *told in found]})
        return
    rows = [(str(run.path), *_state(run), *told) for run, *told in found]
    if rows:
        header = ("run", "state", "edges", "faithfulness", "date", "command", "method", "model", "task")
        print_records(header, rows, results())
    else:
        results().print(plain(f"no runs in {path}"))


def _numbers(run: "Listed") -> dict[str, Any]:
    """State and numbers of a run as JSON values."""
    number = run.faithfulness
    return {
        "path": str(run.path),
        "state": run.state,
        "units": run.units,
        "date": run.date.isoformat(timespec="seconds"),
        "edges": run.edges,
        "faithfulness": number if number is not None and isfinite(number) else None,
    }


def _state(run: "Listed") -> tuple[str, ...]:
    """State, edges, faithfulness and date of a run as texts; empty where there is nothing to tell."""
    unfinished = "" if run.state in ("done", "damaged") else f" at {run.units:,} units"
    edges = "" if run.edges is None else f"{run.edges:,}"
    faithfulness = "" if run.faithfulness is None else f"{run.faithfulness:z.2f}"
    return f"{run.state}{unfinished}", edges, faithfulness, run.date.strftime("%Y-%m-%d %H:%M")


def _described(fields: "Mapping[str, Any]") -> tuple[str, ...]:
    """Command, method, model and task of a run; the values can be of any type, because its file may be damaged."""
    several, task = fields.get("methods"), fields.get("task") or fields.get("case") or ""
    methods = several if isinstance(several, list) and several else [several or fields.get("method") or ""]
    inside = f"{fields['path']} {fields.get('component')}" if "path" in fields else ""
    return (str(fields.get("command")), ", ".join(map(str, methods)), str(fields.get("model") or ""), str(inside or task))


def verify(path: Annotated[Path, _RUN]) -> None:
    """Check that the files of a run are unchanged, and list the changed ones."""
    from subcircuit.cli.console import plain, results
    from subcircuit.errors import RunError
    from subcircuit.runs import damage

    if broken := damage(path):
        raise RunError("; ".join(broken))
    results().print(plain(f"{path}: intact"), soft_wrap=True)
