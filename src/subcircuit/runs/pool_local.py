"""Helpers that are processes of this machine: started afresh (not forked), joined by a pipe each.

They run on as many threads as this process, since bits depend on that: products with long sums and sums over all elements
are split among threads. A helper leaves when its pipe or its standard input ends, so none outlives this process, however
that ends.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socketpair
from tempfile import TemporaryDirectory
from threading import Event, Thread

import torch

from subcircuit.errors import SettingsError
from subcircuit.runs.pool_job import Job
from subcircuit.runs.pool_journal import Table

_ASKED = ("claim", "recall", "record", "release")
_SECONDS_TO_LEAVE = 5.0


@dataclass(frozen=True, eq=False)
class _Helper:
    number: int
    process: subprocess.Popen[bytes]
    pipe: Connection
    log: Path


@contextmanager
def local_helpers(job: Job, workers: int, patience: float, say: Callable[[str], None]) -> Iterator[Table]:
    """All but the first of so many workers, for the length of a ``with`` block.

    Args:
        job: what they do.
        workers: with this process.
        patience: of the table.
        say: told of helpers that stopped before the work was done.

    Yields:
        The table that they ask.

    Raises:
        SettingsError: this system cannot hand pipes to other processes.
    """
    if os.name != "posix":
        raise SettingsError("several workers of one machine need Linux or macOS; on Windows use one worker, or Ray")
    table = Table(patience)
    with TemporaryDirectory(prefix="subcircuit-") as folder:
        job.save(Path(folder))
        helpers = [_start(Path(folder), number) for number in range(1, workers)]
        leaving = Event()
        for helper in helpers:
            Thread(target=_serve, args=(table, helper, say, leaving), daemon=True).start()
        try:
            yield table
        finally:
            leaving.set()
            for helper in helpers:
                _end(helper)


def _start(folder: Path, number: int) -> _Helper:
    mine, theirs = socketpair()
    log, threads = folder / f"helper-{number}.log", str(torch.get_num_threads())
    with log.open("wb") as messages:
        process = subprocess.Popen(
            [sys.executable, "-m", "subcircuit.runs.worker", str(folder), str(theirs.fileno()), str(number)],
            stdin=subprocess.PIPE,
            stdout=messages,
            stderr=messages,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(sys.path)},
            # Ctrl-C is for this process, which ends its helpers
            start_new_session=True,
        )
    theirs.close()
    return _Helper(number, process, Connection(mine.detach()), log)


def _serve(table: Table, helper: _Helper, say: Callable[[str], None], leaving: Event) -> None:
    """Answer a helper's questions until it is gone."""
    with suppress(EOFError, OSError):
        while True:
            name, arguments = helper.pipe.recv()
            assert name in _ASKED, name
            helper.pipe.send(getattr(table, name)(helper.number, *arguments))
    table.leave(helper.number)
    # one that is still on its way out when the work is done is ended by us, which is no news
    if helper.process.wait() != 0 and not leaving.is_set():
        say(f"warning: worker {helper.number} stopped, {_reason(helper)}; the others do its work")


def _reason(helper: _Helper) -> str:
    code = helper.process.returncode
    if code < 0:
        return f"killed by signal {-code}"
    lines = helper.log.read_text(errors="replace").split("\n") if helper.log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), f"exit code {code}")


def _end(helper: _Helper) -> None:
    assert helper.process.stdin is not None
    helper.process.terminate()
    with suppress(OSError):
        helper.process.stdin.close()
    try:
        helper.process.wait(_SECONDS_TO_LEAVE)
    except subprocess.TimeoutExpired:
        helper.process.kill()
        helper.process.wait()
    helper.pipe.close()
