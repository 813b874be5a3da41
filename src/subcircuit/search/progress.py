"""Progress of long work: how much is done, how much there is to do, and what is found so far.

Work that costs about the same for each unit is counted in that unit (``ProgressCounter``). A search that does not know its trials
beforehand predicts them, and its total changes as it learns (``cost.py``). Work whose amount cannot be predicted has no total.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TypeAlias

from subcircuit.graph import Circuit


@dataclass(frozen=True, slots=True)
class Progress:
    """How far some work is; passed to callbacks such as ``on_step``.

    Args:
        phase: name of the work that this value counts; empty if there is only one.
        done: work that is done.
        total: work in all, possibly a prediction; None if it cannot be predicted.
        seconds: seconds since the phase began.
        unit: name of the counted things; empty if the work is weighted.
        numbers: results so far, by name.
        circuit: returns the circuit so far, valid only during the callback; None for work that finds no circuit.
    """

    phase: str
    done: int | float
    total: int | float | None
    seconds: float
    unit: str = ""
    numbers: Mapping[str, int | float] = field(default_factory=dict)
    circuit: Callable[[], Circuit] | None = None

    @property
    def share(self) -> float | None:
        """The share of the work that is done; None if it cannot be predicted."""
        if self.total is None:
            return None
        return min(self.done / self.total, 1.0) if self.total else 1.0


OnProgress: TypeAlias = Callable[[Progress], None]


def in_phase(on_progress: OnProgress | None, phase: str) -> OnProgress | None:
    """A callback for work that is a phase of other work, under this name."""
    return None if on_progress is None else lambda step: on_progress(replace(step, phase=phase))


class ProgressCounter:
    """Counts units of work that cost about the same, and reports to a callback.

    Args:
        total: number of units in all; None if it is unknown.
        on_progress: called after every count.
        unit: name of the counted things.
        phase: name of the work.
    """

    def __init__(self, total: int | None, on_progress: OnProgress | None, unit: str = "runs", phase: str = ""):
        self._total, self._on_progress, self._unit, self._phase = total, on_progress, unit, phase
        self._done, self._began = 0, perf_counter()

    @property
    def finished(self) -> int:
        """The number of finished units."""
        return self._done

    def done(self, units: int) -> None:
        """Count further finished units; work that is repeated in smaller parts counts once."""
        self._done = self._done + units if self._total is None else min(self._done + units, self._total)
        if self._on_progress is not None:
            self._on_progress(Progress(self._phase, self._done, self._total, perf_counter() - self._began, self._unit))

    def reach(self, units: int) -> None:
        """Set the number of finished units, some of which may come from the journal."""
        if units > self._done:
            self.done(units - self._done)
