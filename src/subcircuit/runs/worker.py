"""A worker process: ``python -m subcircuit.runs.worker FOLDER PIPE NUMBER``, started by ``pool_local.py``."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

from subcircuit.errors import SubcircuitError
from subcircuit.runs.pool_job import Job
from subcircuit.runs.pool_journal import WorkerJournal


@dataclass(frozen=True, eq=False)
class _PipeClient:
    """Calls the schedule, which is at the other end of a pipe."""

    pipe: Connection

    def claim(self, worker: int, keys: Sequence[str]) -> str | None:
        return self._ask("claim", keys)

    def recall(self, worker: int, key: str) -> bytes | None:
        return self._ask("recall", key)

    def record(self, worker: int, key: str, result: bytes) -> None:
        self._ask("record", key, result)

    def release(self, worker: int, key: str) -> None:
        self._ask("release", key)

    def leave(self, worker: int) -> None:
        self.pipe.close()

    def _ask(self, name: str, *arguments: object) -> Any:
        try:
            self.pipe.send((name, arguments))
            return self.pipe.recv()
        except (EOFError, OSError):
            # the leader is gone
            raise SystemExit from None


def main(folder: str, pipe: str, number: str) -> None:
    """Run the job until all of it is done, or until the leader is gone."""
    Thread(target=_leave_with_the_first, daemon=True).start()
    schedule = _PipeClient(Connection(int(pipe)))
    # the leader does the unit itself, and raises the same
    with suppress(SubcircuitError):
        Job.load(Path(folder))(WorkerJournal(schedule, int(number)))


def _leave_with_the_first() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
