"""The journals of a crew's processes: the table behind them says what each is to do."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.workers.table import Asked

FIRST = 0
"""The number of the process that began the work, keeps its journal and has its result."""


@dataclass(frozen=True)
class Helping:
    """The journal of a process that helps: it keeps nothing itself."""

    table: Asked
    worker: int
    own: Journal = FORGETFUL
    leaving: bool = False

    def claim(self, keys: Sequence[str]) -> str | None:
        """See ``search.journal.Shared``."""
        return self.table.claim(self.worker, keys)

    def recall(self, key: str) -> bytes | None:
        """See ``search.journal.Shared``."""
        return self.table.recall(self.worker, key)

    def record(self, key: str, result: bytes) -> None:
        """For all to know."""
        self.table.record(self.worker, key, result)

    def release(self, key: str) -> None:
        """See ``search.journal.Shared``."""
        self.table.release(self.worker, key)


@dataclass(frozen=True)
class Leading:
    """The journal of the first process: what its search asks for goes into the journal that is kept, in that order.

    So the journal holds the same, in the same order, however many helped, and nothing that was done in vain.
    """

    table: Asked
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
        mine = self.table.claim(FIRST, keys)
        if mine is not None:
            self._ahead.add(mine)
        return mine

    def recall(self, key: str) -> bytes | None:
        """See ``search.journal.Shared``."""
        self._tell(key)
        result = self.table.recall(FIRST, key)
        if result is not None:
            self._keep(key, result)
        return result

    def record(self, key: str, result: bytes) -> None:
        """For all to know; and to keep, if the search has asked for it."""
        self.table.record(FIRST, key, result)
        if key in self._ahead:
            self._ahead.remove(key)
        else:
            self._keep(key, result)

    def release(self, key: str) -> None:
        """See ``search.journal.Shared``."""
        self._ahead.discard(key)
        self.table.release(FIRST, key)

    def _tell(self, key: str) -> None:
        """What the kept journal holds of a unit becomes known to all."""
        if key not in self._seen:
            self._seen.add(key)
            known = self.own.recall(key)
            if known is not None:
                self._kept.add(key)
                self.table.record(FIRST, key, known)

    def _keep(self, key: str, result: bytes) -> None:
        if key not in self._kept:
            self._kept.add(key)
            self.own.record(key, result)
