"""What a search will cost, and how much of it is done: from parts that are measured before, and from decisions as they are made.

Each method says which parts are run before (``Method.cost``):

    seconds = seconds on a few examples · how much more all of them take          attribution, training

The second factor is the geometric mean of the number of examples and of what a forward pass takes more: a few examples leave a
forward pass waiting for the weights, more than they do a method with larger matrices.

How much of ACDC's work is done is told before anybody knows which trials it will take:

    share done = Σ over decided edges weight(edge) / Σ over all edges weight(edge)
    weight(edge) = depth^1.25,        depth: units from the logits back to the edge's reader

Near the logits a trial recomputes next to nothing. Further down it recomputes the nodes that were kept on the way, and more readers
are live there, of which each edge takes a trial; both grow with depth. Readers that are not live lose their edges untested, and
their weight is done at once. A reader costs more than its trials, as much as ``_READER`` edges: cuts are made definite.

The exponent fits two searches of SmolLM2-135M, IOI with the logit difference at τ 0.1 and subject-verb agreement with KL at τ 0.02: from
a sixth of the search to nine tenths of it, time left is told within a factor of two. It fails where circuits thin out towards the
embedding, or where kept edges lie in few layers.
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

# examples on which parts of searches run, and steps of those that train
EXAMPLES, STEPS = 2, 3
# places at which trials are timed
_PLACES = 12
# seconds of a run that is worth doing twice
_QUICK = 2.0

Item = TypeVar("Item")


@dataclass(frozen=True)
class SearchCost:
    """What parts of a search have told of all of it.

    Args:
        seconds: of the search in one process, without loading.
        ran: what the parts were run on: the problem, or fewer examples of it.
        trials: circuits that are evaluated; None for methods that score all edges together.
        kept: edges that stay, roughly; None for methods of which that is not told.
        seen: the share of the edges that it is judged by.
    """

    seconds: float
    ran: Problem
    trials: int | None = None
    kept: int | None = None
    seen: float = 1.0


def cost_of_examples(search: Callable[[Problem], Result], problem: Problem, times: float = 1.0) -> SearchCost:
    """A search whose cost grows with the examples, and with nothing that it finds, from a few examples.

    Args:
        search: the search, or a part of it.
        times: how often the part makes the whole.
    """
    few = replace(problem, task=problem.task[:EXAMPLES])
    run = search(few)
    if run.seconds < _QUICK:
        # the first time is slower than those after it
        run = search(few)
    examples, passes = len(problem.task) / len(few.task), median(time_forward(problem)) / run.forward_seconds
    return SearchCost(run.seconds * times * sqrt(examples * passes), few)


def drawn(items: Sequence[Item], weights: Sequence[int]) -> list[Item]:
    """Some items in their order, spread so that each comes as often as its weight says."""
    total, sums = sum(weights), list(accumulate(weights))
    at = [(place + 0.5) * total / _PLACES for place in range(_PLACES)]
    return [items[next(i for i, reached in enumerate(sums) if reached >= there)] for there in at]


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = perf_counter()
    work()
    return perf_counter() - began


_GROWTH = 1.25
_READER = 4.0


class Effort:
    """The work of one search, as it is done.

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
        """So many more edges into a reader are decided."""
        self._done += count * self._weights[reader]

    def reader(self, reader: int) -> None:
        """All edges into a reader are decided, and those of ``edges`` are counted already."""
        self._done += _READER * self._weights[reader] if self._edges[reader] else 0.0

    def whole(self, readers: Iterable[int]) -> None:
        """Readers are decided all at once."""
        self._done += sum(map(self._whole, readers))

    @property
    def share(self) -> float:
        """Of all work, how much is done."""
        return min(self._done / self._total, 1.0) if self._total else 1.0
