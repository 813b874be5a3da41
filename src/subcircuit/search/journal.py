"""Units of work that are done once: what makes a search that was interrupted go on where it was.

A unit has a key that names everything its result depends on beside the behaviour itself, a piece of work without side
effects, and a result: numbers, the same whenever and wherever the work is done. A search is a deterministic function
of the results of its units, so a search that is given them again takes the same decisions, to the last bit. Who keeps
the results (``runs/``) and who does the work is not the search's business.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from safetensors.torch import load, save
from torch import Tensor

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
    result = work()
    record_tensors(journal, key, {"result": result})
    return result


def each(journal: Journal, units: Iterable[tuple[str, Unit]], work: Callable[[Unit], Tensor]) -> Iterator[Tensor]:
    """Results of independent units, in their order."""
    return (once(journal, key, lambda unit=unit: work(unit)) for key, unit in units)


def recall_tensors(journal: Journal, key: str) -> dict[str, Tensor] | None:
    """Tensors by name, as they were recorded; None where nothing is."""
    known = journal.recall(key)
    return None if known is None else load(known)


def record_tensors(journal: Journal, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Keep tensors by name, to the last bit."""
    journal.record(key, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
