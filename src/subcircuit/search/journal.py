"""Units of work that are done once, so that an interrupted search can resume.

A unit has a key, a computation without side effects, and a result. The key names everything that the result depends on
except the problem itself. The result is numbers, the same whenever and wherever they are computed. A search is a
deterministic function of its units' results, so a search that gets them again takes bit-identical decisions. Storage of
results (``runs/``) and distribution of work (``runs/pool.py``) are independent of the search.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar, runtime_checkable

from safetensors.torch import load, save
from torch import Tensor

# number of units that are considered when a process looks for work
_AHEAD = 32

Unit = TypeVar("Unit")


@runtime_checkable
class Journal(Protocol):
    """Storage of results by key."""

    @property
    def leaving(self) -> bool:
        """Whether an interruption was requested: the search should record its state now."""
        ...

    def recall(self, key: str) -> bytes | None:
        """The result recorded under this key; None if there is none."""
        ...

    def record(self, key: str, result: bytes) -> None:
        """Store a result, replacing an earlier one of the same key."""
        ...


@runtime_checkable
class Shared(Journal, Protocol):
    """A journal of several processes that run the same search; each unit is computed by one of them.

    ``recall`` waits for a result that another process is computing. None means that this process must compute the result, and
    then record or release it.
    """

    @property
    def own(self) -> Journal:
        """This process's own journal, for work that cannot be shared."""
        ...

    def claim(self, keys: Sequence[str]) -> str | None:
        """Claim the first of these units that is neither done nor being computed, for this process.

        None if there is no such unit, or if the first of all units is done.
        """
        ...

    def release(self, key: str) -> None:
        """Give up a claimed unit, which this process will not compute."""
        ...


@dataclass(frozen=True)
class Forgetful:
    """A journal that stores nothing: every unit is computed anew."""

    leaving: bool = False

    def recall(self, key: str) -> None:
        """None."""

    def record(self, key: str, result: bytes) -> None:
        """Discard the result."""


@dataclass(frozen=True)
class Under:
    """A part of a journal, for one search among several: its keys begin with ``prefix``."""

    journal: Journal
    prefix: str

    @property
    def leaving(self) -> bool:
        """Whether an interruption was requested of the whole journal."""
        return self.journal.leaving

    def recall(self, key: str) -> bytes | None:
        """The result that the part holds."""
        return self.journal.recall(f"{self.prefix}/{key}")

    def record(self, key: str, result: bytes) -> None:
        """Store a result in the part."""
        self.journal.record(f"{self.prefix}/{key}", result)


FORGETFUL = Forgetful()


def once(journal: Journal, key: str, work: Callable[[], Tensor]) -> Tensor:
    """The recorded result of a unit, on the CPU; if there is none, the unit is computed and recorded."""
    known = recall_tensors(journal, key)
    if known is not None:
        return known["result"]
    try:
        result = work()
    except BaseException:
        shared = _shared(journal)
        if shared is not None:
            shared[0].release(shared[1] + key)
        raise
    record_tensors(journal, key, {"result": result})
    return result


def each(journal: Journal, units: Iterable[tuple[str, Unit]], work: Callable[[Unit], Tensor]) -> Iterator[Tensor]:
    """Results of independent units, in their order.

    If the journal is shared, this process computes later units while others are busy with the next one.
    """
    coming, waiting = iter(units), list[tuple[str, Unit]]()
    shared = _shared(journal)
    while waiting := waiting + list(islice(coming, (1 if shared is None else _AHEAD) - len(waiting))):
        if shared is not None:
            _work_ahead(journal, shared, waiting, work)
        key, unit = waiting.pop(0)
        yield once(journal, key, lambda unit=unit: work(unit))


def _work_ahead(
    journal: Journal, shared: tuple[Shared, str], waiting: Sequence[tuple[str, Unit]], work: Callable[[Unit], Tensor]
) -> None:
    """Compute unclaimed units until the first one is done, or until none is left."""
    (sharing, prefix), units = shared, dict(waiting)
    keys = [prefix + key for key in units]
    while (mine := sharing.claim(keys)) is not None:
        key = mine.removeprefix(prefix)
        once(journal, key, lambda key=key: work(units[key]))


def alone(journal: Journal) -> Journal:
    """The process's own part of a journal, for chains of steps that cannot be shared."""
    match journal:
        case Under(inner, prefix):
            return Under(alone(inner), prefix)
        case Shared():
            return journal.own
        case _:
            return journal


def _shared(journal: Journal, prefix: str = "") -> tuple[Shared, str] | None:
    """The shared journal that contains this one, and the prefix of this one's keys; None if it is not shared."""
    match journal:
        case Under(inner, part):
            return _shared(inner, f"{part}/{prefix}")
        case Shared():
            return journal, prefix
        case _:
            return None


def recall_tensors(journal: Journal, key: str) -> dict[str, Tensor] | None:
    """Recorded tensors by name; None if there are none."""
    known = journal.recall(key)
    return None if known is None else load(known)


def record_tensors(journal: Journal, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Store tensors by name, bit-exactly."""
    journal.record(key, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
