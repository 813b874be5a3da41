"""The printed summary of a circuit on disk."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from subcircuit.cli.console import plain, print_json, print_rows, results
from subcircuit.graph import Circuit, Point, Record
from subcircuit.report import Summary

PICTURES = ("circuit.svg", "circuit.png", "path.svg", "path.png")


_NEXT = ("evaluate", "explain", "view")
_RECORDED = ("model", "task")


def print_run(path: Path, circuit: Circuit, *, as_json: bool, given: Mapping[str, str | None] | None = None) -> None:
    """Print the summary of the circuit at ``path``, as a table or as one JSON object, with the paths of its pictures.

    Args:
        given: the model and the task as the user named them; None suggests no next steps.
    """
    directory = path if path.is_dir() else path.parent
    summary, pictures = Summary.of(circuit), [str(directory / name) for name in PICTURES if (directory / name).is_file()]
    if as_json:
        print_json({**summary.to_json(), "out": str(path), "pictures": pictures})
        return
    console = results()
    print_rows(summary.rows, console)
    console.print()
    # a folded path cannot be clicked or copied
    console.print(plain(f"circuit   {path}"), soft_wrap=True)
    for picture in pictures:
        console.print(plain(f"picture   {picture}"), soft_wrap=True)
    if given is not None and circuit.record is not None:
        console.print()
        for line in next_steps(path, circuit.record, given):
            console.print(plain(line), soft_wrap=True)


def next_steps(path: Path, record: Record, given: Mapping[str, str | None]) -> list[str]:
    """Next commands for a circuit."""
    names = {"model": record.model.name, "task": record.task.name}
    # a record holds only the last part of a path, so the next command needs the whole path
    where = [word for name in _RECORDED if given.get(name) not in (None, names[name]) for word in (f"--{name}", str(given[name]))]
    commands = [["subcircuit", command, str(path), *([] if command == "view" else where)] for command in _NEXT]
    return [f"{'' if n else 'next':<10}{shlex.join(words)}" for n, words in enumerate(commands)]


def print_point(point: Point, out: Path | None, *, as_json: bool) -> None:
    """The size and the measurements of a circuit on a refinement path."""
    sides = {"validation": point.validation, "search": point.search}
    if as_json:
        numbers = {name: None if standing is None else vars(standing) for name, standing in sides.items()}
        print_json({"edges": point.n_edges, "action": point.action, **numbers, "out": None if out is None else str(out)})
        return
    console = results()
    rows = [("edges kept", f"{point.n_edges:,}, after a round of {point.action}")]
    for name, standing in sides.items():
        if standing is not None:
            rows.append((f"on {name} prompts", f"faithfulness {standing.faithfulness:.2f} · KL {standing.kl:.3g}"))
    print_rows(rows, console)
    if out is not None:
        console.print(plain(f"circuit   {out}"), soft_wrap=True)
