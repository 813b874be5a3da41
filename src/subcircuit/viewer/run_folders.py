"""Run directories for the viewer: the circuit of a finished run, or the circuit so far and its progress."""

from collections.abc import Sequence
from pathlib import Path

from subcircuit.errors import RunError
from subcircuit.explain import EXPLANATION_FILE
from subcircuit.graph import PATH_FILE
from subcircuit.graph.file import CIRCUIT_FILE, SCORES_FILE
from subcircuit.report.page.arrays import Json
from subcircuit.runs import is_locked, listed, read_progress
from subcircuit.text import inert

# commands whose runs have no circuit
_JUDGES = ("sweep", "validate")
_FILES = (CIRCUIT_FILE, SCORES_FILE, EXPLANATION_FILE, PATH_FILE)


def now_at(path: Path) -> Path:
    """The path of a run's circuit: the result if the run is done, else the circuit so far."""
    if not path.is_dir() or (path / CIRCUIT_FILE).exists():
        return path
    seen = read_progress(path)
    return path if seen is None else seen[1]


def check_circuit(path: Path) -> None:
    """Refuse a run that has no circuit; the message names its results.

    Raises:
        RunError: it judges methods, or its search has not come far enough.
    """
    run = None if now_at(path) != path or (path / CIRCUIT_FILE).exists() else listed(path)
    if run is None:
        return
    command = inert(str(run.fields.get("command")))
    far = f"it is {run.state}, with {run.units:,} units of work done"
    if command in _JUDGES:
        raise RunError(f"{path} is a run of subcircuit {command}, which writes tables and figures but no circuit: {far}")
    go_on = f". Resume it: subcircuit resume {path}" if run.state == "stopped" else ""
    raise RunError(f"{path} is a run of subcircuit {command} and has no circuit yet: {far}{go_on}")


def progress_of(paths: Sequence[Path]) -> Json:
    """The page's status of its runs: their version, and the progress of the first unfinished run."""
    told: Json = {"version": version_of(paths), "running": False, "words": ""}
    for path in paths:
        seen = None if now_at(path) == path else read_progress(path)
        if seen is not None:
            running, words = is_locked(path), inert(seen[0].words)
            said = (words or "searching") if running else f"stopped: {_without_time_left(words)}".removesuffix(": ")
            return {**told, "running": running, "share": seen[0].share, "words": said}
    return told


def _without_time_left(words: str) -> str:
    return " · ".join(part for part in words.split(" · ") if not part.endswith(" left"))


def version_of(paths: Sequence[Path]) -> str:
    """A string that changes when the files of a circuit change."""
    places = [now_at(path) for path in paths]
    return "-".join(_stamp(place / name if place.is_dir() else place) for place in places for name in _FILES)


def _stamp(file: Path) -> str:
    try:
        known = file.stat()
    except OSError:
        return "0"
    return f"{known.st_mtime_ns:x}.{known.st_size:x}"
