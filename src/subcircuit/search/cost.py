"""The cost of a search, extrapolated from measured parts, and the share of its work done so far.

Each method defines the parts that are run (``Method.cost``):

        seconds = seconds on a few examples · ratio for all of them          attribution, training

The ratio is the geometric mean of two ratios: of the number of examples, and of the time of a forward pass. With few examples a
forward pass waits for the weights; methods with larger matrices wait less.

The share of ACDC's work that is done is estimated without knowing which trials it will take:

    share done = Σ over decided edges weight(edge) / Σ over all edges weight(edge)
    weight(edge) = depth^1.25,        depth: units from the logits back to the edge's reader

Near the logits a trial recomputes almost nothing. Further down it recomputes the nodes kept so far, and more readers are live,
each of whose edges takes a trial; both grow with depth. Readers that are not live lose their edges untested, and their weight
counts as done at once. Committing a reader's cuts costs as much as ``_READER`` edges, in addition to its trials.

The exponent fits two searches of SmolLM2-135M, IOI with the logit difference at τ 0.1 and subject-verb agreement with KL at τ 0.02:
from a sixth to nine tenths of the search, the predicted time left is within a factor of two. It fails if circuits thin out towards
the embedding, or if kept edges lie in few layers.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import sqrt
from statistics import median
from time import perf_counter
from typing import TypeVar

from jaxtyping import Bool
from torch import Tensor

from subcircuit.graph import Graph
from subcircuit.search.problem import Problem
from subcircuit.search.result import Result, time_forward

# number of examples for measured parts of searches, and number of steps for methods that train
EXAMPLES, STEPS = 2, 3
# number of readers at which trials are timed
_PLACES = 12
# seconds of a run that is short enough to repeat
_QUICK = 2.0

Item = TypeVar("Item")


@dataclass(frozen=True)
class SearchCost:
    """The cost of a search, extrapolated from measured parts.

    Args:
        seconds: seconds of the search in one process, without loading.
        ran: the problem on which the parts ran, possibly with fewer examples.
        trials: number of circuits to evaluate; None for methods that score all edges together.
        kept: approximate number of edges that stay; None for methods that do not predict it.
        seen: share of the edges on which the prediction is based.
    """

    seconds: float
    ran: Problem
    trials: int | None = None
    kept: int | None = None
    seen: float = 1.0


def cost_of_examples(search: Callable[[Problem], Result], problem: Problem, times: float = 1.0) -> SearchCost:
    """The cost of a search that grows only with the number of examples, measured on a few examples.

    Args:
        search: the search, or a part of it.
        times: number of times that the whole search repeats the part.
    """
    few = replace(problem, task=problem.task[:EXAMPLES])
    run = search(few)
    if run.seconds < _QUICK:
        # the first run is slower than later ones
        run = search(few)
    examples, passes = len(problem.task) / len(few.task), median(time_forward(problem)) / run.forward_seconds
    return SearchCost(run.seconds * times * sqrt(examples * passes), few)


def drawn(items: Sequence[Item], weights: Sequence[int]) -> list[Item]:
    """Some items in order, each as often as its weight implies."""
    total, sums = sum(weights), list(accumulate(weights))
    at = [(place + 0.5) * total / _PLACES for place in range(_PLACES)]
    return [items[next(i for i, reached in enumerate(sums) if reached >= there)] for there in at]


def seconds_of(work: Callable[[], object]) -> float:
    """The seconds that the work takes."""
    began = perf_counter()
    work()
    return perf_counter() - began


_GROWTH = 1.25
_READER = 4.0


class Effort:
    """The work of one search that is done so far.

    Args:
        tried: the edges that the search decides on.
    """

    def __init__(self, graph: Graph, tried: Bool[Tensor, "writer reader"]):
        self._edges, depth = tried.sum(0).tolist(), len(graph.units)
        self._weights = [(depth - graph.unit_of[reader]) ** _GROWTH for reader in range(len(graph.readers))]
        self._total = sum(map(self._whole, range(len(graph.readers))))
        self._done = 0.0

    def _whole(self, reader: int) -> float:
        edges = self._edges[reader]
        return (edges + _READER) * self._weights[reader] if edges else 0.0

    def edges(self, reader: int, count: int) -> None:
        """Count further decided edges into a reader."""
        self._done += count * self._weights[reader]

    def reader(self, reader: int) -> None:
        """Count a reader as finished; the edges passed to ``edges`` are not counted again."""
        self._done += _READER * self._weights[reader] if self._edges[reader] else 0.0

    def whole(self, readers: Iterable[int]) -> None:
        """Count readers that are decided as wholes."""
        self._done += sum(map(self._whole, readers))

    @property
    def share(self) -> float:
        """The share of all work that is done."""
        return min(self._done / self._total, 1.0) if self._total else 1.0
