"""The directory that a run leaves, with a circuit: circuit.json, scores.safetensors, circuit.svg, circuit.png.

It appears whole or not at all, and nothing that exists is ever overwritten.
"""

import os
import re
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

from subcircuit import io
from subcircuit.errors import OutputError
from subcircuit.graph import Circuit


def new_directory(path: str | Path | None, task: str, model: str) -> Path:
    """Where a run may be written, checked before any work is done; nothing is left behind by the check.

    Args:
        path: the directory asked for; it may exist if it is empty. None: the first free ``runs/<task>-<model>-<number>``.
        task, model: names for the default.

    Raises:
        OutputError: the directory is not empty, is no directory, or cannot be written.
    """
    directory = _first_free(task, model) if path is None else Path(path)
    _refuse_if_taken(directory)
    nearest = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    if not nearest.is_dir():
        raise OutputError(f"{directory} cannot be written: {nearest} is not a directory")
    try:
        os.rmdir(tempfile.mkdtemp(dir=nearest, prefix=".subcircuit-"))
    except OSError as error:
        raise OutputError(f"{directory} cannot be written: {error.strerror}; choose another directory with --out") from None
    return directory


def write_run(circuit: Circuit, path: str | Path) -> Path:
    """Write a circuit, its scores and its pictures into a new directory.

    Raises:
        OutputError: the directory is not empty or cannot be written; it is left as it was.
    """
    from subcircuit.report.picture import save_picture  # matplotlib: what only names or refuses a place does not wait for it

    def fill(directory: Path) -> None:
        circuit.save(directory)
        save_picture(circuit, directory)

    return write_directory(path, fill)


def write_directory(path: str | Path, fill: Callable[[Path], None]) -> Path:
    """Make a new directory, whole or not at all.

    Args:
        fill: writes into the directory that it is given.

    Raises:
        OutputError: the directory is not empty or cannot be written; it is left as it was.
    """
    directory = Path(path)
    _refuse_if_taken(directory)
    try:
        io.write_directory(directory, fill)
    except OSError as error:
        raise OutputError(f"{directory} cannot be written: {error.strerror or error}") from error
    return directory


def write_file(path: Path, write: Callable[[Path], object]) -> Path:
    """Make a new file, whole or not at all.

    Args:
        write: fills the file that it is given.

    Raises:
        OutputError: the file exists, or cannot be written.
    """
    if os.path.lexists(path):
        raise OutputError(f"{path} exists and was not changed: choose another path with --out")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        io.write_whole(path, write, new=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from None
    return path


def _refuse_if_taken(directory: Path) -> None:
    try:
        os.lstat(directory)
        taken = directory.is_symlink() or not directory.is_dir() or any(directory.iterdir())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise OutputError(f"{str(directory)!r} cannot be written: {error}") from None
    if taken:
        raise OutputError(f"{directory} exists, is not empty, and was not changed: choose another directory with --out")


def _first_free(task: str, model: str) -> Path:
    name = "-".join(_in_a_path(part) for part in (task, model))
    free = (Path("runs") / f"{name}-{number}" for number in count(1))
    return next(path for path in free if not path.exists())


def _in_a_path(name: str) -> str:
    """The last part of a name (of a hub id, of a path), without characters that mean something to a shell or a file system."""
    last = re.sub(r"(?i)\.(jsonl|gguf)$", "", re.split(r"[/\\]", name.rstrip("/\\"))[-1])
    return re.sub(r"[^A-Za-z0-9._]+", "-", last).strip("-.")[:60] or "run"
