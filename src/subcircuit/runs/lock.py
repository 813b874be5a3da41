"""The lock of a run: one process at a time works on it.

The lock is SQLite's own on an empty file: it holds on every system, between threads as between processes, is not
inherited by workers, and goes when its process goes, however that ends. A file left behind locks nothing.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from subcircuit.errors import RunError

LOCK_FILE = ".lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a run for as long as the block lasts.

    Raises:
        RunError: another process holds it.
    """
    lock: sqlite3.Connection | None = None
    with suppress(OSError):
        # SQLite itself creates files with mode 0644, whatever the umask
        (directory / LOCK_FILE).touch()
    try:
        lock = sqlite3.connect(directory / LOCK_FILE, isolation_level=None, timeout=0)
        lock.execute("begin exclusive")
    except sqlite3.Error as error:
        if lock is not None:
            lock.close()
        raise RunError(_why(directory, error)) from None
    try:
        yield
    finally:
        lock.close()


def is_locked(directory: Path) -> bool:
    """Whether a process is at work on a run."""
    if not (directory / LOCK_FILE).exists():
        return False
    try:
        with locked(directory):
            return False
    except RunError:
        return True


def _why(directory: Path, error: sqlite3.Error) -> str:
    if "locked" in str(error):
        return f"another process is at work on {directory}: wait until it is done, or stop it with Ctrl-C."
    return f"{directory / LOCK_FILE} cannot be used: {error}"
