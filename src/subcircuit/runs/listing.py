"""The runs in a directory, from their files alone: nothing here imports torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from subcircuit.errors import RunError
from subcircuit.runs.folder import CHECKSUMS_FILE, RUN_FILE, read_run
from subcircuit.runs.journal import JOURNAL_FILE, SqliteJournal
from subcircuit.runs.lock import is_locked

# a circuit file of more bytes is not read for a listing
_LARGEST = 1 << 26


@dataclass(frozen=True)
class Listed:
    """A run in a listing.

    Args:
        state: done, running, stopped or damaged.
        fields: the fields of its spec, as its file has them; they may be damaged.
        units: number of units of work on the disk.
        date: time at which the run was finished; of an unfinished run, at which it was started.
        edges: number of edges of its circuit; None if there is no circuit.
        faithfulness: faithfulness of the circuit on the run's test prompts; None if it was not measured.
    """

    path: Path
    state: str
    fields: Mapping[str, Any]
    units: int
    date: datetime
    edges: int | None = None
    faithfulness: float | None = None


def list_runs(parent: Path) -> list[Listed]:
    """The runs in a directory, by name; what is not one is left out."""
    return [run for path in sorted(parent.iterdir()) if (run := listed(path)) is not None] if parent.is_dir() else []


def listed(path: Path) -> Listed | None:
    """The run in a directory; None where there is none."""
    try:
        fields = read_run(path).fields
    except RunError:
        return None
    done = (path / CHECKSUMS_FILE).exists()
    state = "done" if done else "running" if is_locked(path) else "stopped"
    try:
        units = SqliteJournal.count(path / JOURNAL_FILE)
    except RunError:
        state, units = "damaged", 0
    date = datetime.fromtimestamp((path / (CHECKSUMS_FILE if done else RUN_FILE)).stat().st_mtime)
    return Listed(path, state, fields, units, date, *_circuit_numbers(path / "circuit.json"))


def _circuit_numbers(file: Path) -> tuple[int | None, float | None]:
    """The number of edges in a circuit file, and the faithfulness on test prompts in its record."""
    try:
        content = json.loads(file.read_bytes()) if file.stat().st_size <= _LARGEST else None
    except (OSError, ValueError, RecursionError):
        content = None
    found: list[Any] = [content, content]
    for names, index in ((("edges",), 0), (("record", "results", "test", "faithfulness"), 1)):
        for name in names:
            found[index] = found[index].get(name) if isinstance(found[index], dict) else None
    edges, faithfulness = found
    measured = isinstance(faithfulness, int | float) and not isinstance(faithfulness, bool)
    return len(edges) if isinstance(edges, list) else None, float(faithfulness) if measured else None
