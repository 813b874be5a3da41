"""The lock of a run: one process at a time works on it.

The operating system holds the lock between threads and between processes, and releases it when the process ends for any reason.
A leftover lock file does not block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

from subcircuit.errors import RunError

LOCK_FILE = ".lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a run for as long as the block lasts.

    Raises:
        RunError: another process holds it, or the directory cannot be written.
    """
    try:
        lock = _acquired(directory)
    except Timeout:
        raise RunError(f"another process is working on {directory}: wait until it is done, or stop it with Ctrl-C.") from None
    except OSError as error:
        raise RunError(f"{directory / LOCK_FILE} cannot be used: {error.strerror}") from None
    with lock:
        yield


def is_locked(directory: Path) -> bool:
    """Whether a process is at work on a run; False where the directory cannot be written, as no process works there."""
    if not (directory / LOCK_FILE).exists():
        return False
    try:
        with _acquired(directory):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def _acquired(directory: Path) -> AcquireReturnProxy:
    return FileLock(directory / LOCK_FILE, timeout=0).acquire()
