"""Agreement of circuits, two at a time: the edges that they share, and the rank correlation of their scores.

    J(A, B) = |A ∩ B| / |A ∪ B|       of the kept edges; 1 for two empty circuits (Jaccard 1901)

The index shows whether searches that differ in their seed, templates, order or prompts find the same circuit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.errors import GraphError, SettingsError
from subcircuit.graph import Circuit
from subcircuit.graph.circuit import ModelRecord
from subcircuit.search.result import rank_correlation


@dataclass(frozen=True)
class Agreement:
    """Two circuits of one graph.

    Args:
        left, right: their indices among the given circuits.
        shared, only_left, only_right: numbers of edges.
        jaccard: shared edges over edges kept in either.
        scored: edges that have a score in both; searches that stop early leave some without.
        rank_correlation: Spearman's, over those edges; None where it is undefined.
    """

    left: int
    right: int
    shared: int
    only_left: int
    only_right: int
    jaccard: float
    scored: int
    rank_correlation: float | None


def agreements(circuits: Sequence[Circuit]) -> tuple[Agreement, ...]:
    """Every pair of at least two circuits, in the order (0, 1), (0, 2), …, (1, 2), …

    Raises:
        SettingsError: fewer than two circuits.
        GraphError: circuits of different graphs.
    """
    check_comparable(circuits)
    return tuple(_agreement(i, j, circuits[i], circuits[j]) for i, j in combinations(range(len(circuits)), 2))


def models_that_differ(circuits: Sequence[Circuit]) -> tuple[str, ...]:
    """A warning for each circuit whose weights differ from those of the first circuit with a record; empty if all are of one model.

    Weights of the same dtype are compared directly. Otherwise the revision or the digest of the files is compared.
    """
    models = [(number, c.record.model) for number, c in enumerate(circuits, 1) if c.record is not None]
    return tuple(
        f"circuit {number} was found in {_named(other)} and circuit {models[0][0]} in {_named(models[0][1])}: these are different models"
        for number, other in models[1:]
        if _other_weights(models[0][1], other)
    )


def _other_weights(left: ModelRecord, right: ModelRecord) -> bool:
    same_dtype = left.dtype == right.dtype
    known = ((left.weights, right.weights),) * same_dtype + ((left.revision, right.revision),)
    return next((one != other for one, other in known if one is not None and other is not None), left.name != right.name)


def _named(model: ModelRecord) -> str:
    return model.name if model.revision is None else f"{model.name} ({model.revision[:19]})"


def check_comparable(circuits: Sequence[Circuit]) -> None:
    """Refuse fewer than two circuits, and circuits of different graphs.

    Raises:
        SettingsError: fewer than two circuits.
        GraphError: circuits of different graphs.
    """
    if len(circuits) < 2:
        raise SettingsError(f"a comparison needs at least two circuits; given: {len(circuits)}")
    for other in circuits[1:]:
        if other.graph != circuits[0].graph:
            unlike = circuits[0].graph.unlike(other.graph)
            raise GraphError(f"circuits of different graphs cannot be compared; they differ in {unlike}")


def _agreement(i: int, j: int, left: Circuit, right: Circuit) -> Agreement:
    compared = left.compare(right)
    scored, correlation = 0, None
    if left.scores is not None and right.scores is not None:
        both = left.graph.edges & left.scores.isfinite() & right.scores.isfinite()
        scored, correlation = int(both.sum()), rank_correlation(left.scores[both], right.scores[both])
    sizes = (compared.shared.n_edges, compared.only_left.n_edges, compared.only_right.n_edges)
    return Agreement(i, j, *sizes, compared.jaccard, scored, correlation)


@dataclass(frozen=True, eq=False)
class Stability:
    """Agreement of circuits of one graph.

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
