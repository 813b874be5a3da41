"""The residual stream as units find it one after the other."""

from torch import Tensor

from subcircuit.units.unit import Unit


class Stream:
    """A sum that units read and add to, in the order of computation or against it; units of one clock find the same.

    Args:
        total: before the first unit.
    """

    def __init__(self, total: Tensor) -> None:
        self.total = self._found = total
        self._clock: int | None = None

    def read_by(self, unit: Unit) -> Tensor:
        """What a unit finds."""
        if unit.clock != self._clock:
            self._found, self._clock = self.total, unit.clock
        return self._found

    def add(self, *terms: Tensor | None) -> None:
        """Add terms one after the other; None adds nothing."""
        for term in terms:
            self.total = self.total if term is None else self.total + term
