"""Do searches that should agree find the same circuit: other seeds, templates, orders, subsets of prompts?

J(A, B) = |A ∩ B| / |A ∪ B|   of the kept edges; 1 for two empty circuits (Jaccard 1901)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.evaluate.agreement import check_comparable
from subcircuit.graph import Circuit


@dataclass(frozen=True, eq=False)
class Stability:
    """How much circuits of one graph agree.

    Args:
        jaccard: of each pair, in the order (0, 1), (0, 2), …, (1, 2), …
        frequency: the share of the circuits that keep each edge.
    """

    jaccard: tuple[float, ...]
    frequency: Float[Tensor, "writer reader"]

    @property
    def mean_jaccard(self) -> float:
        """The mean over all pairs."""
        return sum(self.jaccard) / len(self.jaccard)


def stability(circuits: Sequence[Circuit]) -> Stability:
    """Compare every pair of at least two circuits.

    Raises:
        SettingsError: fewer than two circuits.
        GraphError: circuits of different graphs.
    """
    check_comparable(circuits)
    jaccard = tuple(a.compare(b).jaccard for a, b in combinations(circuits, 2))
    return Stability(jaccard, torch.stack([circuit.kept for circuit in circuits]).double().mean(0))
