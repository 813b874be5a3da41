"""Workers on this machine: processes started afresh (not forked), each joined by a pipe.

They run on as many threads as this process, since bits depend on that: products with long sums and sums over all elements
are split among threads. A worker leaves when its pipe or its standard input ends, so none outlives this process, however
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
from subcircuit.runs.pool_journal import Schedule

_METHODS = ("claim", "recall", "record", "release")
_SECONDS_TO_LEAVE = 5.0


@dataclass(frozen=True, eq=False)
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    pipe: Connection
    log: Path


@contextmanager
def local_workers(job: Job, processes: int, patience: float, say: Callable[[str], None]) -> Iterator[Schedule]:
    """Workers for the length of a ``with`` block: all processes but this one.

    Args:
        job: what they do.
        processes: how many, this one among them.
        patience: of the schedule.
        say: told of workers that stopped before the work was done.

    Yields:
        The schedule that they share.

    Raises:
        SettingsError: this system cannot hand pipes to other processes.
    """
    if os.name != "posix":
        raise SettingsError("several workers on one machine need Linux or macOS: on Windows use one worker, or Ray")
    schedule = Schedule(patience)
    with TemporaryDirectory(prefix="subcircuit-") as folder:
        job.save(Path(folder))
        workers = [_start(Path(folder), number) for number in range(1, processes)]
        leaving = Event()
        for worker in workers:
            Thread(target=_serve, args=(schedule, worker, say, leaving), daemon=True).start()
        try:
            yield schedule
        finally:
            leaving.set()
            for worker in workers:
                _end(worker)


def _start(folder: Path, number: int) -> _Worker:
    mine, theirs = socketpair()
    log, threads = folder / f"worker-{number}.log", str(torch.get_num_threads())
    with log.open("wb") as messages:
        process = subprocess.Popen(
            [sys.executable, "-m", "subcircuit.runs.worker", str(folder), str(theirs.fileno()), str(number)],
            stdin=subprocess.PIPE,
            stdout=messages,
            stderr=messages,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(sys.path)},
            # Ctrl-C is for this process, which ends its workers
            start_new_session=True,
        )
    theirs.close()
    return _Worker(number, process, Connection(mine.detach()), log)


def _serve(schedule: Schedule, worker: _Worker, say: Callable[[str], None], leaving: Event) -> None:
    """Serve a worker's calls until it is gone."""
    with suppress(EOFError, OSError):
        while True:
            name, arguments = worker.pipe.recv()
            assert name in _METHODS, name
            worker.pipe.send(getattr(schedule, name)(worker.number, *arguments))
    schedule.leave(worker.number)
    # one that is still on its way out when the work is done is ended by us, which is no news
    if worker.process.wait() != 0 and not leaving.is_set():
        say(f"warning: worker {worker.number} stopped ({_reason(worker)}); the other workers take over its work")


def _reason(worker: _Worker) -> str:
    code = worker.process.returncode
    if code < 0:
        return f"killed by signal {-code}"
    lines = worker.log.read_text(errors="replace").split("\n") if worker.log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), f"exit code {code}")


def _end(worker: _Worker) -> None:
    assert worker.process.stdin is not None
    worker.process.terminate()
    with suppress(OSError):
        worker.process.stdin.close()
    try:
        worker.process.wait(_SECONDS_TO_LEAVE)
    except subprocess.TimeoutExpired:
        worker.process.kill()
        worker.process.wait()
    worker.pipe.close()
