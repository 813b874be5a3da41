"""What is printed of a circuit on disk: after a search, and when it is shown again."""

from pathlib import Path

from subcircuit.cli.console import plain, print_json, print_rows, results
from subcircuit.graph import Circuit
from subcircuit.report import Summary

PICTURES = ("circuit.svg", "circuit.png")


def print_run(path: Path, circuit: Circuit, *, as_json: bool) -> None:
    """The summary of the circuit at ``path``, as a table or as one JSON object, with the pictures that lie beside it."""
    directory = path if path.is_dir() else path.parent
    summary, pictures = Summary.of(circuit), [str(directory / name) for name in PICTURES if (directory / name).is_file()]
    if as_json:
        print_json({**summary.to_json(), "out": str(path), "pictures": pictures})
        return
    console = results()
    print_rows(summary.rows, console)
    console.print()
    # a path that is folded can be neither clicked nor copied
    console.print(plain(f"circuit   {path}"), soft_wrap=True)
    for picture in pictures:
        console.print(plain(f"picture   {picture}"), soft_wrap=True)
