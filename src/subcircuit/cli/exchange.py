"""``subcircuit export``, ``import`` and ``mib-submission``: circuits in the formats of other tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit.cli.arguments import CircuitDir, JsonSummary, JsonTable, Revision
from subcircuit.errors import CircuitFileError, SettingsError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from subcircuit.graph import Scope
    from subcircuit.report.exchange.mib_submission import SubmissionEntry, Suffix


def export(
    path: CircuitDir,
    format: Annotated[
        str,
        typer.Option(
            "--format", "-f", help="Format: mib-json, mib-pt, edge-pruning, attribution-graph, networkx, graphml, dot or csv."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="New file. Default: beside the circuit, named after the format.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Model, for the MIB formats if the circuit does not record the model's width."),
    ] = None,
) -> None:
    """Write a circuit in the format of another tool."""
    from subcircuit.cli.console import plain, results
    from subcircuit.graph import Circuit
    from subcircuit.report import Summary
    from subcircuit.report.exchange import FORMATS, WRITTEN, export_circuit

    if format not in WRITTEN:
        raise UnknownNameError("format", format, WRITTEN)
    circuit = Circuit.load(path)
    file = out or (path if path.is_dir() else path.parent) / f"circuit{FORMATS[format].suffix}"
    width = None if model is None or not FORMATS[format].width else _width(model)
    written = export_circuit(circuit, file, format, d_model=width)
    results().print(plain(f"written   {written}"), soft_wrap=True)
    if FORMATS[format].scores and (meaning := Summary.of(circuit).scores) is not None:
        results().print(plain(f"scores    {meaning}"), soft_wrap=True)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File that another tool wrote.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model of the circuit: built-in name, hub id, directory or .gguf file.")
    ],
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="Format: mib-json, mib-pt, edge-pruning, networkx, graphml, csv or acdc. Default: from name and content.",
        ),
    ] = None,
    scope: Annotated[str | None, typer.Option(help="Scope, as in discover. Default: the file's, else qkv.")] = None,
    kv: Annotated[
        str | None, typer.Option(help="Keys and values, as in discover. Default: the file's, else per_query_head.")
    ] = None,
    split_embeddings: Annotated[
        bool | None,
        typer.Option(
            "--split-embeddings/--no-split-embeddings", help="Separate token and position embeddings. Default: as in the file."
        ),
    ] = None,
    revision: Revision = None,
    out: Annotated[Path | None, typer.Option(help="New or empty directory. Default: runs/<file>-<model>-<number>.")] = None,
    json: JsonSummary = False,
) -> None:
    """Read a circuit of another tool, check it against its model, and save it as a directory."""
    from subcircuit.cli.console import messages
    from subcircuit.cli.progress import watch
    from subcircuit.cli.summary import print_run
    from subcircuit.model import load_model
    from subcircuit.report import new_directory, write_run
    from subcircuit.report.exchange import import_circuit
    from subcircuit.report.exchange.formats import check_read

    check_read(format)
    if not file.is_file():
        raise CircuitFileError(f"{file} cannot be read: No such file or directory")
    asked = _scope(scope, kv, split_embeddings)
    directory = new_directory(out, file.name.partition(".")[0], model)
    with watch(messages()) as watcher:
        watcher.say(f"loading {model}")
        transformer = load_model(model, revision=revision, report=watcher.say)
        circuit = import_circuit(file, transformer, scope=asked, format=format)
    print_run(write_run(circuit, directory), circuit, as_json=json)


def mib_submission(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="DIR…", help="Directories that `subcircuit discover` wrote.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New or empty folder for the submission.")] = None,
    check: Annotated[Path | None, typer.Option(help="Folder to check; nothing is written.")] = None,
    circuits: Annotated[
        bool, typer.Option("--circuits", help="Write nine circuits selected by score instead of the scores.")
    ] = False,
    by: Annotated[str, typer.Option(help="Ranking of scores for --circuits: absolute or signed.")] = "absolute",
    suffix: Annotated[str, typer.Option("--format", "-f", help="Format of the files: pt (small) or json (readable).")] = "pt",
    model: Annotated[str | None, typer.Option("--model", "-m", help="Model, if the circuits do not record its width.")] = None,
    json: JsonTable = False,
) -> None:
    """Write and check a folder for MIB's circuit localization track, or only check one."""
    from subcircuit.cli.console import print_json
    from subcircuit.graph import Circuit, ranking_named
    from subcircuit.report.exchange.mib_submission import check_submission, write_submission

    if (check is None) == (out is None) or (check is not None and paths):
        raise SettingsError("give directories of circuits and --out FOLDER, or only --check FOLDER")
    order, ending, folder = ranking_named(by), _suffix(suffix), check or out
    assert folder is not None
    if check is not None:
        entries = check_submission(check)
    else:
        width = None if model is None else _width(model)
        loaded = [Circuit.load(path) for path in paths or ()]
        entries = write_submission(loaded, folder, select=circuits, by=order, suffix=ending, d_model=width)
    if json:
        print_json({"folder": str(folder), "entries": [vars(entry) for entry in entries]})
    else:
        _show(folder, entries)


def _show(folder: Path, entries: "Sequence[SubmissionEntry]") -> None:
    from subcircuit.cli.console import messages, plain, print_table, results

    rows = [(e.name, e.kind, f"{e.edges:,}", ", ".join(f"{size:,}" for size in e.sizes) or "all scored") for e in entries]
    print_table(("folder", "holds", "edges", "edges of the circuits"), rows, results())
    results().print()
    results().print(plain(f"checked   {folder}"), soft_wrap=True)
    for entry in entries:
        for warning in entry.warnings:
            messages().print(plain(f"warning: {entry.name}: {warning}"), soft_wrap=True)
    tasks, models = ({entry.name.rpartition("_")[part] for entry in entries} for part in (0, 2))
    if len(tasks) < 2 or len(models) < 2:
        messages().print(plain("warning: the leaderboard asks for at least two tasks and two models"), soft_wrap=True)


def _width(model: str) -> int:
    from subcircuit.cli.console import messages
    from subcircuit.cli.progress import watch
    from subcircuit.model import load_model

    with watch(messages()) as watcher:
        watcher.say(f"loading {model}")
        return load_model(model, report=watcher.say).config.d_model


def _scope(scope: str | None, kv: str | None, split: bool | None) -> "Scope | None":
    """The requested scope; None if no option sets it."""
    from subcircuit.graph import Scope

    given: dict[str, Any] = {"scope": scope, "kv": kv, "split_embeddings": split}
    given = {name: value for name, value in given.items() if value is not None}
    return Scope.named(**given) if given else None


def _suffix(name: str) -> "Suffix":

    endings: "dict[str, Suffix]" = {"pt": ".pt", "json": ".json"}
    if name not in endings:
        raise UnknownNameError("format", name, tuple(endings))
    return endings[name]
