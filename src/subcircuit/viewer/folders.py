"""Run directories as the viewer watches them."""

from collections.abc import Sequence
from pathlib import Path

from subcircuit.explain import EXPLANATION_FILE
from subcircuit.graph.file import CIRCUIT_FILE, SCORES_FILE

_FILES = (CIRCUIT_FILE, SCORES_FILE, EXPLANATION_FILE)


def version_of(paths: Sequence[Path]) -> str:
    """A word that changes when what a circuit is read from does."""
    return "-".join(_stamp(path / name if path.is_dir() else path) for path in paths for name in _FILES)


def _stamp(file: Path) -> str:
    try:
        known = file.stat()
    except OSError:
        return "0"
    return f"{known.st_mtime_ns:x}.{known.st_size:x}"
