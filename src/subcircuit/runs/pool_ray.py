"""Workers on a Ray cluster (extra ``distributed``): tasks on this machine or on others.

The schedule is an actor that this process and all workers call. A worker whose machine is lost is started again elsewhere by
Ray, and what it had taken is free at once. Bits are those of one process as long as all machines compute alike: the same
processors, versions and number of threads.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor

from subcircuit.errors import SettingsError, SubcircuitError
from subcircuit.extras import require
from subcircuit.runs.pool_job import Job
from subcircuit.runs.pool_journal import Schedule, ScheduleClient, WorkerJournal

_RESTARTS = 3


@dataclass(frozen=True, eq=False)
class _RayClient:
    """Calls the schedule, which is an actor elsewhere."""

    ray: Any
    actor: Any

    def claim(self, worker: int, keys: Sequence[str]) -> str | None:
        return self._ask("claim", worker, keys)

    def recall(self, worker: int, key: str) -> bytes | None:
        return self._ask("recall", worker, key)

    def record(self, worker: int, key: str, result: bytes) -> None:
        self._ask("record", worker, key, result)

    def release(self, worker: int, key: str) -> None:
        self._ask("release", worker, key)

    def leave(self, worker: int) -> None:
        self._ask("leave", worker)

    def _ask(self, name: str, *arguments: object) -> Any:
        return self.ray.get(getattr(self.actor, name).remote(*arguments))


@contextmanager
def ray_workers(job: Job, processes: int, patience: float, say: Callable[[str], None], address: str) -> Iterator[ScheduleClient]:
    """Workers for the length of a ``with`` block: all processes but this one.

    Args:
        job: what they do.
        processes: how many, this one among them.
        patience: of the schedule.
        say: told of workers that stopped before the work was done.
        address: of the cluster; "local" starts one of this machine, and ends it.

    Yields:
        The schedule that they share.

    Raises:
        MissingExtraError: Ray is not installed; SettingsError: there is no cluster at the address.
    """
    ray = _connected(address)
    try:
        # each waiting worker holds one of the actor's threads
        schedule = ray.remote(Schedule).options(max_concurrency=2 * processes + 2, num_cpus=0).remote(patience)
        outline, tensors = job.pack()
        model, threads = ray.put(tensors), str(torch.get_num_threads())
        options = {"max_retries": _RESTARTS, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads}}}
        workers = [
            ray.remote(_work).options(**options).remote(schedule, number, outline, model) for number in range(1, processes)
        ]
        leaving = Event()
        watcher = Thread(target=_watch, args=(ray, workers, say, leaving), daemon=True)
        watcher.start()
        try:
            yield _RayClient(ray, schedule)
        finally:
            leaving.set()
            watcher.join()
            for worker in workers:
                ray.cancel(worker, force=True)
            ray.kill(schedule)
    finally:
        ray.shutdown()


def _connected(address: str) -> Any:
    require("distributed")
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SettingsError(f"no Ray cluster at {address!r}: {error}") from None
    return ray


def _work(actor: Any, number: int, outline: bytes, tensors: dict[str, Tensor]) -> None:
    """Work until all is done."""
    import ray

    schedule = _RayClient(ray, actor)
    # started again, it does not know what it had taken before
    schedule.leave(number)
    with suppress(SubcircuitError):
        Job.unpack(outline, tensors)(WorkerJournal(schedule, number))


def _watch(ray: Any, workers: list[Any], say: Callable[[str], None], leaving: Event) -> None:
    """Tell of workers that could not be started again."""
    waiting = list(workers)
    while waiting and not leaving.is_set():
        done, waiting = ray.wait(waiting, timeout=1.0)
        for worker in done:
            try:
                ray.get(worker)
            except Exception as error:
                if not leaving.is_set():
                    say(
                        f"warning: worker {workers.index(worker) + 1} stopped ({type(error).__name__}); the other workers take over its work"
                    )
