"""Helpers that are tasks of a Ray cluster (extra ``distributed``), on this machine or on others.

The table is an actor that this process and all helpers ask. A helper whose machine is lost is started again elsewhere by
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
from subcircuit.runs.pool_job import Job
from subcircuit.runs.pool_journal import Asked, Helping, Table

_RESTARTS = 3


@dataclass(frozen=True, eq=False)
class _Desk:
    """The table in an actor elsewhere."""

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
def ray_helpers(job: Job, workers: int, patience: float, say: Callable[[str], None], address: str) -> Iterator[Asked]:
    """All but the first of so many workers, for the length of a ``with`` block.

    Args:
        job: what they do.
        workers: with this process.
        patience: of the table.
        say: told of helpers that stopped before the work was done.
        address: of the cluster; "local" starts one of this machine, and ends it.

    Yields:
        The table that they ask.

    Raises:
        SettingsError: Ray is not installed, or there is no cluster at the address.
    """
    ray = _connected(address)
    try:
        # each waiting helper holds one of the actor's threads
        table = ray.remote(Table).options(max_concurrency=2 * workers + 2, num_cpus=0).remote(patience)
        outline, tensors = job.pack()
        model, threads = ray.put(tensors), str(torch.get_num_threads())
        options = {"max_retries": _RESTARTS, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads}}}
        helpers = [ray.remote(_help).options(**options).remote(table, number, outline, model) for number in range(1, workers)]
        leaving = Event()
        watcher = Thread(target=_watch, args=(ray, helpers, say, leaving), daemon=True)
        watcher.start()
        try:
            yield _Desk(ray, table)
        finally:
            leaving.set()
            watcher.join()
            for helper in helpers:
                ray.cancel(helper, force=True)
            ray.kill(table)
    finally:
        ray.shutdown()


def _connected(address: str) -> Any:
    try:
        import ray
    except ImportError:
        raise SettingsError("--ray needs the extra distributed: pip install 'subcircuit[distributed]'") from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SettingsError(f"no Ray cluster at {address!r}: {error}") from None
    return ray


def _help(actor: Any, number: int, outline: bytes, tensors: dict[str, Tensor]) -> None:
    """Help until the work is done."""
    import ray

    table = _Desk(ray, actor)
    # started again, it does not know what it had taken before
    table.leave(number)
    with suppress(SubcircuitError):
        Job.unpack(outline, tensors)(Helping(table, number))


def _watch(ray: Any, helpers: list[Any], say: Callable[[str], None], leaving: Event) -> None:
    """Tell of helpers that could not be started again."""
    waiting = list(helpers)
    while waiting and not leaving.is_set():
        done, waiting = ray.wait(waiting, timeout=1.0)
        for helper in done:
            try:
                ray.get(helper)
            except Exception as error:
                if not leaving.is_set():
                    say(f"warning: worker {helpers.index(helper) + 1} stopped, {type(error).__name__}; the others do its work")
