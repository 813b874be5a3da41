"""The processes that share the work of a run: the leader, which began it, and its workers.

All processes run the same work on replicas of the model. The work is a deterministic function of its units' results
(``search/journal.py``): one process computes each unit, and the others read the result. So no process needs instructions,
none holds data that the others depend on, and the leader finishes even if all workers stop. Results are bit-identical to those
of one process, because every unit is computed as in one process, on the same number of threads.

    attribution, evaluation     units are batches of prompts
    exact                       the edges into a reader
    acdc                        batches of trials, ahead of the decisions on those before
    validate all                searches of a case
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from subcircuit.errors import SettingsError
from subcircuit.runs.pool_job import Job, Work
from subcircuit.runs.pool_journal import PATIENCE, LeaderJournal, ScheduleClient
from subcircuit.runs.pool_local import local_workers
from subcircuit.search.journal import FORGETFUL, Journal

__all__ = ["Pool"]


@dataclass(frozen=True)
class Pool:
    """A number of processes, on this machine or on a Ray cluster.

    Args:
        workers: processes in all, this one among them.
        ray: address of a Ray cluster (``host:port``, "auto"), or "local" to start one here; None: processes of this machine.
        patience: seconds after which a unit that hangs is done again by another process.

    Raises:
        SettingsError: no process, or a cluster for one process alone.
    """

    workers: int = 1
    ray: str | None = None
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SettingsError(f"workers is {self.workers}: it must be at least 1")
        if self.ray is not None and self.workers == 1:
            raise SettingsError("ray is set and workers is 1: use at least 2 workers, or leave ray out.")

    def run(self, work: Work, journal: Journal = FORGETFUL, *, say: Callable[[str], None] | None = None, **own: Any) -> Any:
        """The result of ``work(journal=…)``, to the last bit.

        Examples:
            >>> Pool(4).run(partial(discover, model, task, Exact()))  # doctest: +SKIP

        Args:
            work: a function of this library that takes a journal, or a ``functools.partial`` of one. Every process has a replica
                of each model among its arguments, on the same device.
            journal: keeps the results of units; used by this process alone.
            say: called with a line for each worker that stopped.
            own: arguments of this process alone, such as ``on_step``.

        Raises:
            SettingsError: there can be no such pool here, or the work cannot be sent to other processes.

        Errors of the work are raised here as if no other process had been there.
        """
        job = Job(partial(work, **own))
        if self.workers == 1:
            return job(journal)
        with self._started(Job(work), say or (lambda message: None)) as schedule:
            return job(LeaderJournal(schedule, journal))

    def _started(self, job: Job, say: Callable[[str], None]) -> AbstractContextManager[ScheduleClient]:
        if self.ray is None:
            return local_workers(job, self.workers, self.patience, say)
        from subcircuit.runs.pool_ray import ray_workers

        return ray_workers(job, self.workers, self.patience, say, self.ray)
