"""What a search will cost, from parts of it that are run and measured; each method says which (``Method.cost``).

    seconds = seconds on a few examples · how much more all of them take          attribution, training

The second factor is the geometric mean of the number of examples and of what a forward pass takes more: a few examples leave a
forward pass waiting for the weights, more than they do a method with larger matrices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import sqrt
from statistics import median
from time import perf_counter
from typing import TypeVar

from subcircuit.search.problem import Problem
from subcircuit.search.result import Result
from subcircuit.search.scores import time_forward

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
