"""Units of work that are done once: what makes a search that was interrupted go on where it was.

A unit has a key that names everything its result depends on beside the behaviour itself, a piece of work without side
effects, and a result: numbers, the same whenever and wherever the work is done. A search is a deterministic function
of the results of its units, so a search that is given them again takes the same decisions, to the last bit. Who keeps
the results (``runs/``) and who does the work (``runs/pool.py``) is not the search's business.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar, runtime_checkable

from safetensors.torch import load, save
from torch import Tensor

# units that are looked at when somebody looks for work
_AHEAD = 32

Unit = TypeVar("Unit")


@runtime_checkable
class Journal(Protocol):
    """Remembers results by key."""

    @property
    def leaving(self) -> bool:
        """Somebody asked to stop: what can be saved should be recorded now."""
        ...

    def recall(self, key: str) -> bytes | None:
        """The result recorded under this key; None where there is none."""
        ...

    def record(self, key: str, result: bytes) -> None:
        """Keep a result, instead of an earlier one of the same key."""
        ...


@runtime_checkable
class Shared(Journal, Protocol):
    """A journal of several processes that all run the same search; each unit is worked out by one of them.

    ``recall`` waits for a result that another process is working out. None says that this one is to work it out, and to
    record or to release it.
    """

    @property
    def own(self) -> Journal:
        """What this process remembers by itself, of work that cannot be shared."""
        ...

    def claim(self, keys: Sequence[str]) -> str | None:
        """Ask for work: the first of these units that nobody has done or is doing, now this process's to do.

        None where there is none, or where the first of all units is done.
        """
        ...

    def release(self, key: str) -> None:
        """This process will not work out a unit that was its to do."""
        ...


@dataclass(frozen=True)
class Forgetful:
    """Remembers nothing: every unit is worked out anew."""

    leaving: bool = False

    def recall(self, key: str) -> None:
        """Nothing."""

    def record(self, key: str, result: bytes) -> None:
        """Kept by nobody."""


@dataclass(frozen=True)
class Under:
    """A part of a journal, for a search among others: its keys begin with ``prefix``."""

    journal: Journal
    prefix: str

    @property
    def leaving(self) -> bool:
        """As the whole journal says."""
        return self.journal.leaving

    def recall(self, key: str) -> bytes | None:
        """What the part holds."""
        return self.journal.recall(f"{self.prefix}/{key}")

    def record(self, key: str, result: bytes) -> None:
        """Into the part."""
        self.journal.record(f"{self.prefix}/{key}", result)


FORGETFUL = Forgetful()


def once(journal: Journal, key: str, work: Callable[[], Tensor]) -> Tensor:
    """The result of a unit: as recorded, on the processor, or worked out now and recorded."""
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

    Where the journal is shared, units after the next one are worked out while others are busy with it.
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
    """Until the first of these units is done, or there is nothing to do but to wait for it, do what nobody does."""
    (sharing, prefix), units = shared, dict(waiting)
    keys = [prefix + key for key in units]
    while (mine := sharing.claim(keys)) is not None:
        key = mine.removeprefix(prefix)
        once(journal, key, lambda key=key: work(units[key]))


def alone(journal: Journal) -> Journal:
    """The part of a journal that is this process's own: for chains of steps, which nobody can help with."""
    match journal:
        case Under(inner, prefix):
            return Under(alone(inner), prefix)
        case Shared():
            return journal.own
        case _:
            return journal


def _shared(journal: Journal, prefix: str = "") -> tuple[Shared, str] | None:
    """The shared journal that this one is or is part of, and what its keys begin with there."""
    match journal:
        case Under(inner, part):
            return _shared(inner, f"{part}/{prefix}")
        case Shared():
            return journal, prefix
        case _:
            return None


def recall_tensors(journal: Journal, key: str) -> dict[str, Tensor] | None:
    """Tensors by name, as they were recorded; None where nothing is."""
    known = journal.recall(key)
    return None if known is None else load(known)


def record_tensors(journal: Journal, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Keep tensors by name, to the last bit."""
    journal.record(key, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
