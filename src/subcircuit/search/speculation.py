"""How many circuits to try at once.

A batch of T trials costs a fixed overhead, worth about c trials, and T trials; those after the first kept edge are
wasted. If edges are kept with probability k, cost per useful trial is near (c + T) / (T (1 − k T / 2)), least at
T ≈ sqrt(2 c / k).
"""

from dataclasses import dataclass

OVERHEAD = 6.0
_MEMORY = 0.97
ROWS_AT_ONCE = 1536
_FEWEST = 4


@dataclass
class Speculation:
    """Chooses the number of trials from how often edges were kept lately; deterministic.

    Args:
        fixed: always this many; None adapts.
        most: limit from memory, at least 1 is taken.
    """

    fixed: int | None
    most: int
    kept: float = 0.5
    tried: float = 10.0

    def size(self, rows: int) -> int:
        """Trials for the next batch.

        Args:
            rows: that the visited reader has in one trial: few in cache beat many out of it.
        """
        wanted = self.fixed or min(round((2 * OVERHEAD * self.tried / self.kept) ** 0.5), max(_FEWEST, ROWS_AT_ONCE // rows))
        return max(1, min(wanted, self.most))

    def learn(self, cut: int, kept: bool) -> None:
        """Take in the outcome of a batch: edges cut, and whether one was then kept."""
        fade = _MEMORY ** (cut + kept)
        self.tried = self.tried * fade + cut + kept
        self.kept = max(self.kept * fade + kept, 0.05)
