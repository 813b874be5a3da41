"""The journals of a pool's processes, and their shared schedule of units and results.

A unit is taken by the first process that claims it, and done when a result is recorded. Units that were taken by a process
that leaves (or dies, or is killed) are free again, and so are units taken for longer than ``patience``: a process that waits
for such a unit does it itself. A unit done twice has the same result twice; the first one stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Condition
from time import monotonic
from typing import Protocol, runtime_checkable

from subcircuit.search.journal import FORGETFUL, Journal

# a unit is a few prompts or some dozens of trials: seconds, but for very large models
PATIENCE = 300.0


@runtime_checkable
class ScheduleClient(Protocol):
    """The interface of a schedule, in this process or another; each process passes its number."""

    def claim(self, worker: int, keys: Sequence[str]) -> str | None:
        """Take the first of these units that is free; None where there is none, or where the first of all is done."""
        ...

    def recall(self, worker: int, key: str) -> bytes | None:
        """The result of a unit, after waiting if another process computes it; None if the caller must compute it now."""
        ...

    def record(self, worker: int, key: str, result: bytes) -> None:
        """Record that a unit is done."""
        ...

    def release(self, worker: int, key: str) -> None:
        """Release a unit that this process had taken."""
        ...

    def leave(self, worker: int) -> None:
        """Release all units of a process that is gone."""
        ...


@dataclass(frozen=True)
class _Taken:
    worker: int
    since: float


class Schedule:
    """Which process does which unit, by key; several threads may call it at once.

    Args:
        patience: seconds after which a unit that was taken and is not done may be done by another process too.
    """

    def __init__(self, patience: float = PATIENCE):
        self._patience, self._changed = patience, Condition()
        self._done: dict[str, bytes] = {}
        self._taken: dict[str, _Taken] = {}
        self.shares: dict[int, int] = {}
        """How many units each process has done."""

    def claim(self, worker: int, keys: Sequence[str]) -> str | None:
        """See ``ScheduleClient``."""
        with self._changed:
            free = next((key for key in keys if key not in self._done and key not in self._taken), None)
            if free is None or keys[0] in self._done:
                return None
            self._take(worker, free)
            return free

    def recall(self, worker: int, key: str) -> bytes | None:
        """See ``ScheduleClient``."""
        with self._changed:
            while key not in self._done:
                taken = self._taken.get(key)
                left = 0.0 if taken is None or taken.worker == worker else self._patience + taken.since - monotonic()
                if left <= 0:
                    self._take(worker, key)
                    return None
                self._changed.wait(left)
            return self._done[key]

    def record(self, worker: int, key: str, result: bytes) -> None:
        """See ``ScheduleClient``."""
        with self._changed:
            if key not in self._done:
                self._done[key] = result
                self.shares[worker] = self.shares.get(worker, 0) + 1
            self._taken.pop(key, None)
            self._changed.notify_all()

    def release(self, worker: int, key: str) -> None:
        """See ``ScheduleClient``."""
        with self._changed:
            if key in self._taken and self._taken[key].worker == worker:
                del self._taken[key]
            self._changed.notify_all()

    def leave(self, worker: int) -> None:
        """See ``ScheduleClient``."""
        with self._changed:
            self._taken = {key: taken for key, taken in self._taken.items() if taken.worker != worker}
            self._changed.notify_all()

    def knows(self, key: str) -> bool:
        """Whether a unit is done."""
        with self._changed:
            return key in self._done

    def _take(self, worker: int, key: str) -> None:
        self._taken[key] = _Taken(worker, monotonic())


LEADER = 0
"""The number of the process that began the work, keeps the journal on disk and returns the result."""


@dataclass(frozen=True)
class WorkerJournal:
    """The journal of a worker, which keeps nothing itself."""

    schedule: ScheduleClient
    worker: int
    own: Journal = FORGETFUL
    leaving: bool = False

    def claim(self, keys: Sequence[str]) -> str | None:
        """See ``search.journal.Shared``."""
        return self.schedule.claim(self.worker, keys)

    def recall(self, key: str) -> bytes | None:
        """See ``search.journal.Shared``."""
        return self.schedule.recall(self.worker, key)

    def record(self, key: str, result: bytes) -> None:
        """For all to know."""
        self.schedule.record(self.worker, key, result)

    def release(self, key: str) -> None:
        """See ``search.journal.Shared``."""
        self.schedule.release(self.worker, key)


@dataclass(frozen=True)
class LeaderJournal:
    """The journal of the leader: results that its search asks for go into the journal that is kept, in that order.

    So the journal holds the same results in the same order for any number of workers, and no result that was not needed.
    """

    schedule: ScheduleClient
    own: Journal
    _seen: set[str] = field(default_factory=set)  # units that the kept journal was asked for
    _ahead: set[str] = field(default_factory=set)  # units taken before the search asked for them
    _kept: set[str] = field(default_factory=set)

    @property
    def leaving(self) -> bool:
        """As the journal that is kept says."""
        return self.own.leaving

    def claim(self, keys: Sequence[str]) -> str | None:
        """See ``search.journal.Shared``; what was known before is told to all and not done again."""
        for key in keys:
            self._tell(key)
        mine = self.schedule.claim(LEADER, keys)
        if mine is not None:
            self._ahead.add(mine)
        return mine

    def recall(self, key: str) -> bytes | None:
        """See ``search.journal.Shared``."""
        self._tell(key)
        result = self.schedule.recall(LEADER, key)
        if result is not None:
            self._keep(key, result)
        return result

    def record(self, key: str, result: bytes) -> None:
        """For all to know; and to keep, if the search has asked for it."""
        self.schedule.record(LEADER, key, result)
        if key in self._ahead:
            self._ahead.remove(key)
        else:
            self._keep(key, result)

    def release(self, key: str) -> None:
        """See ``search.journal.Shared``."""
        self._ahead.discard(key)
        self.schedule.release(LEADER, key)

    def _tell(self, key: str) -> None:
        """Share the kept journal's entry for a unit with all processes."""
        if key not in self._seen:
            self._seen.add(key)
            known = self.own.recall(key)
            if known is not None:
                self._kept.add(key)
                self.schedule.record(LEADER, key, known)

    def _keep(self, key: str, result: bytes) -> None:
        if key not in self._kept:
            self._kept.add(key)
            self.own.record(key, result)
