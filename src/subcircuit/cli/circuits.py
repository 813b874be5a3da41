"""Circuits on disk, with short names for a page."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subcircuit.report.page import Shown


def shown_circuits(paths: Sequence[Path]) -> "list[Shown]":
    """The circuits with their labels and refinement paths; of a running search, the circuit so far.

    Raises:
        CircuitFileError: a directory has no circuit, or its files are damaged or newer.
        RunError: the run has no circuit.
    """
    from subcircuit.graph import Circuit
    from subcircuit.report.page import Shown, read_labels, read_path
    from subcircuit.viewer.run_folders import check_circuit, now_at

    for path in paths:
        check_circuit(path)

    def shown(name: str, place: Path) -> Shown:
        circuit = Circuit.load(place)
        return Shown(name, circuit, read_labels(place), *read_path(place, circuit))

    return [shown(name, now_at(path)) for name, path in zip(names_of(paths), paths, strict=True)]


def names_of(paths: Sequence[Path]) -> list[str]:
    """The shortest distinct ends of the paths; never a whole absolute path."""
    parts = [Path(os.path.abspath(path)).parts[1:] for path in paths]
    length = next((n for n in range(1, 4) if len({p[-n:] for p in parts}) == len(parts)), None)
    if length is None:
        return [f"{part[-1]} ({number})" for number, part in enumerate(parts, 1)]
    return ["/".join(part[-length:]) for part in parts]
