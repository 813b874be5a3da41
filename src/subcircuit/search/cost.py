"""The cost of a search, extrapolated from measured parts, and the seconds that a running search will still take.

Each method defines the parts that are run (``Method.cost``):

        seconds = seconds on a few examples · ratio for all of them          attribution, training

The ratio is the geometric mean of two ratios: of the number of examples, and of the time of a forward pass. With few examples a
forward pass waits for the weights; methods with larger matrices wait less.

The seconds that a running ACDC search will still take are predicted from what its trials have cost (``Forecast``):

    seconds left = Σ over undecided readers P(live) · decisions · seconds of a decision
    P(live) = 1 − Π over edges out of the reader's node, to readers r, (1 − a · P(live r))

Only live readers, those with a kept path to the logits, need trials; the others lose their edges untested. Decided edges show
which readers are live already. The rest follows from a, the share of decisions so far that made a writer live. Seconds of a decision
are recent means per kind of reader, so that they follow the machine and the growing circuit. The share of head inputs that are not
cut as a whole is learned in the same way.

It fails while many edges are kept within a few decisions, mostly near the logits, and where trials become dearer as the circuit grows.
Predicted over true time left, in four searches of SmolLM2-135M with 24 to 83 edges, after a third of the search: 0.7 to 1.4 for the
demo's seed, otherwise 0.3 to 3.5.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import sqrt
from statistics import median
from time import perf_counter
from typing import TypeVar

import torch
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
_WHOLE = "whole"
# a chance above this counts as certain
_CERTAIN = 0.999

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


# number of decisions over which seconds, and over which the growth of the circuit, are remembered; head inputs cut as wholes
_SECONDS_MEMORY, _GROWTH_MEMORY, _WHOLES_MEMORY = 200, 2000, 50
# number of decisions that a kind of reader's seconds are trusted like those of all kinds
_PRIOR = 20
# of the time of a search, at most one part in so many goes into predicting it
_SHARE = 50


class _Recent:
    """A ratio of sums that forgets: each decision weighs less as others follow.

    Args:
        memory: number of decisions after which about a third of the weight is left.
        part, whole: the sums at first.
    """

    def __init__(self, memory: int, part: int | float = 0, whole: int | float = 0):
        self._fade, self.part, self.whole = 1 - 1 / memory, part, whole

    def add(self, part: int | float, whole: int | float) -> None:
        """Count further decisions."""
        fade = self._fade**whole
        self.part, self.whole = self.part * fade + part, self.whole * fade + whole

    @property
    def ratio(self) -> float:
        """The ratio of the sums."""
        return self.part / self.whole if self.whole else 0.0


@dataclass(frozen=True)
class Pending:
    """The undecided part of the unit that a search visits.

    Args:
        reader: the visited reader.
        left: its undecided edges.
        staying: readers whose edges will be tried one by one.
        waiting: readers that will be tried as wholes first.
    """

    reader: int
    left: int
    staying: Sequence[int] = ()
    waiting: Sequence[int] = ()


class Forecast:
    """The predicted seconds of a running search; see the module.

    Args:
        tried: the edges that the search decides on.
        kept: edges that stay without a trial.
        wholes: per unit, whether its readers are first tried as wholes.
    """

    def __init__(
        self,
        graph: Graph,
        tried: Bool[Tensor, "writer reader"],
        kept: Bool[Tensor, "writer reader"],
        wholes: Sequence[bool],
    ):
        self._graph, self._tried, self._wholes = graph, tried, wholes
        self._edges, self._owners = tried.sum(0).double(), [list(graph.owners(reader)) for reader in graph.readers]
        # whether each writer is known to be live
        self._live = kept.any(1)
        self._all, self._by_kind = _Recent(_SECONDS_MEMORY), dict[str, _Recent]()
        self._growth, self._stays = _Recent(_GROWTH_MEMORY, 1.0, 300.0), _Recent(_WHOLES_MEMORY, 1.0, 4.0)
        self._groups, self._seconds, self._next, self._latest = _Recent(_GROWTH_MEMORY, 1.0, 1.0), 0.0, 0.0, 0.0

    def wholes(self, seconds: float, decisions: int, stays: int) -> None:
        """Learn from decisions on whole readers, ``seconds`` after the search began."""
        self._learn(_WHOLE, seconds, decisions)
        self._stays.add(stays, decisions)

    def edges(self, reader: int, seconds: float, decisions: int, edges: int) -> None:
        """Learn from decisions on edges into a reader."""
        self._learn(self._kind(reader), seconds, decisions)
        self._growth.add(0, decisions)
        self._groups.add(decisions, edges)

    def decided(self, kept: Bool[Tensor, " writer"]) -> None:
        """Learn which writers are live, from the edges into a reader that are kept."""
        live = self._live | kept
        self._growth.add(int((live & ~self._live).sum()), 0)
        self._live = live

    def _learn(self, kind: str, seconds: float, decisions: int) -> None:
        for known in (self._all, self._by_kind.setdefault(kind, _Recent(_SECONDS_MEMORY))):
            known.add(seconds - self._seconds, decisions)
        self._seconds = seconds

    def _kind(self, reader: int) -> str:
        return self._graph.readers[reader].kind

    def _seconds_of(self, kind: str) -> float:
        """Seconds of a decision."""
        known, general = self._by_kind.get(kind, _Recent(1)), self._all.ratio
        return (known.part + _PRIOR * general) / (known.whole + _PRIOR)

    def total(self, seconds: float, pending: Pending) -> float:
        """The predicted seconds of the whole search, ``seconds`` after it began."""
        if seconds >= self._next:
            began = perf_counter()
            self._latest = self._left(pending)
            self._next = seconds + _SHARE * (perf_counter() - began)
        # what follows the last decision takes some time too
        return seconds + max(self._latest, self._all.ratio)

    def _left(self, pending: Pending) -> float:
        graph, stays, groups = self._graph, self._stays.ratio, self._groups.ratio
        cost = {kind: self._seconds_of(kind) for kind in {_WHOLE, *(reader.kind for reader in graph.readers)}}
        left = pending.left * groups * cost[self._kind(pending.reader)] + len(pending.waiting) * cost[_WHOLE]
        not_live = torch.zeros(len(graph.writers), dtype=torch.float64)

        def tried(readers: Sequence[int], chances: Tensor) -> float:
            """Seconds for the edges into readers that are tried with these chances; their writers may become live."""
            columns = list(readers)
            fewer = torch.log1p(-(self._growth.ratio * chances).clamp(max=_CERTAIN))
            not_live.add_(self._tried[:, columns].double() @ fewer)
            costs = torch.tensor([cost[self._kind(reader)] for reader in columns], dtype=torch.float64)
            return float((chances * self._edges[columns] * costs).sum()) * groups

        here = [*pending.staying, *pending.waiting]
        chances = torch.tensor([1.0] * len(pending.staying) + [stays] * len(pending.waiting), dtype=torch.float64)
        left += tried(here, chances)
        for unit in reversed(range(graph.unit_of[pending.reader])):
            writers = torch.where(self._live, 1.0, 1 - not_live.exp())
            readers = [reader for reader in graph.readers_in[unit] if self._edges[reader]]
            if not readers:
                continue
            live = torch.stack([1 - (1 - writers[self._owners[reader]]).prod() for reader in readers])
            if self._wholes[unit]:
                left += float(live.sum()) * cost[_WHOLE]
                live = live * stays
            left += tried(readers, live)
        return left
