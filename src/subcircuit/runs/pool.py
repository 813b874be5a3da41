"""A crew: the process that began some work, and those that help it.

All of them run the same work on replicas of the model. It is a deterministic function of its units' results
(``search/journal.py``), each unit is worked out by one of them, and the others are told. So no process needs to be told
what to do, none holds what the others cannot do without, and the first one finishes whatever becomes of the others.
Results are those of one process to the last bit, as every unit is what one process would have worked out, on the same
number of threads.

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
from subcircuit.runs.pool_journal import PATIENCE, Asked, Leading
from subcircuit.runs.pool_local import local_helpers
from subcircuit.search.journal import FORGETFUL, Journal

__all__ = ["Crew", "together"]


@dataclass(frozen=True)
class Crew:
    """How many processes work together, and where.

    Args:
        workers: processes in all, the one that asks among them.
        ray: address of a Ray cluster (``host:port``, "auto"), or "local" to start one here; None: processes of this machine.
        patience: seconds after which a unit that hangs is done again by another.
    """

    workers: int = 1
    ray: str | None = None
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SettingsError(f"workers is {self.workers}: it must be at least 1")
        if self.ray is not None and self.workers == 1:
            raise SettingsError("ray is given and workers is 1: nobody would help. Ask for 2 workers or more.")


def together(
    work: Work,
    crew: Crew,
    journal: Journal = FORGETFUL,
    *,
    say: Callable[[str], None] | None = None,
    **mine: Any,
) -> Any:
    """Do some work with a crew; returns what ``work(journal=…)`` returns, to the last bit.

    >>> together(partial(discover, model, task, Exact()), Crew(4))  # doctest: +SKIP

    Args:
        work: a function of this library, or a ``functools.partial`` of one, that keeps to a journal. Of each model among its arguments
            every process has a replica, on the same device.
        crew: how many, and where.
        journal: keeps what was worked out; of this process alone.
        say: told of helpers that stopped.
        mine: arguments of this process alone, such as ``on_step``.

    Raises:
        SettingsError: there can be no such crew here.

    Errors of the work are raised here as if no other process had been there.
    """
    job = Job(partial(work, **mine))
    if crew.workers == 1:
        return job(journal)
    with _helpers(Job(work), crew, say or (lambda message: None)) as table:
        return job(Leading(table, journal))


def _helpers(job: Job, crew: Crew, say: Callable[[str], None]) -> AbstractContextManager[Asked]:
    if crew.ray is None:
        return local_helpers(job, crew.workers, crew.patience, say)
    from subcircuit.runs.pool_ray import ray_helpers

    return ray_helpers(job, crew.workers, crew.patience, say, crew.ray)
