"""The exact effect of every single edge (edge activation patching): the reference for approximations.

    score(w → r) = L(M without w → r) − L(M)

One trial per edge, none of them a full forward pass: a trial starts at the reader, skips the positions and rows that
cannot change or do not matter, and runs the layers above once for all their readers (``engine/exact.py``). Cost: about
half a forward pass per edge, in large batches; less for edges into late layers, where most edges are. Each effect is that
of cutting one edge from the whole model. Two edges that substitute for each other have no effect each, and the sum of their
effects is not the effect of cutting both. If edges are restored to the corrupted run one by one (``direction.py``), each of
the two has the whole effect:

    score(w → r) = L(M on corrupted prompts) − L(the same with w → r as in the clean run)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from statistics import mean

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.engine.exact import open_all, try_singly
from subcircuit.engine.memory import in_parts
from subcircuit.graph import Graph
from subcircuit.graph.selection import check_scores
from subcircuit.search.attribution import examples_at_once
from subcircuit.search.batches import Batches, after_each_other
from subcircuit.search.cost import SearchCost, drawn, seconds_of
from subcircuit.search.direction import ENDS, Direction, check_direction, check_start, larger
from subcircuit.search.journal import FORGETFUL, Journal, each
from subcircuit.search.memory import Footprint, of_engines
from subcircuit.search.method import ALONE, ScoringMethod
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, ProgressCounter

# rows of matrix products: enough for efficient products
ROWS_AT_ONCE = 8192
# number of trials that are timed at a reader
_TRIALS = 16


@dataclass(frozen=True)
class Exact(ScoringMethod):
    """Settings of exact effects.

    Args:
        batch_size: examples at once; None chooses by memory. The result is the same.
        direction: cut edges of the model, restore edges to the corrupted run, or do both and take the larger effect.
    """

    name = "exact"
    description = "the effect of cutting each edge alone: edge activation patching"
    meaning = f"{ALONE}, measured"

    batch_size: int | None = None
    direction: Direction = "noising"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_direction(self.direction)

    def check(self, problem: Problem) -> None:
        """Raise the errors that ``search`` would raise for this problem."""
        check_start(problem.ablation.name, self.direction)

    def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        """Effects in each direction of the search."""
        graph, ends = problem.graph, ENDS[self.direction]
        size = examples_at_once(problem, self.batch_size)
        rounds = ProgressCounter(work_of_cuts(graph, graph.edges) * len(ends), progress, "")
        from_ends = [effects_of(problem, graph.edges, size, rounds, restoring, journal) for restoring in ends]
        for effects in from_ends:
            # check before taking the larger effect: the comparison would hide NaN
            check_scores(graph, effects)
        return larger(from_ends)

    def cost(self, problem: Problem, patience: float = 60.0) -> SearchCost:
        """The cost, from trials at some readers, drawn in proportion to their edges."""
        trials = problem.graph.n_edges * len(ENDS[self.direction])
        return SearchCost(trials * seconds_of_a_cut(problem, self.batch_size), problem, trials)

    def memory(self, problem: Problem) -> Footprint:
        """Memory of all runs, plus a batch of trials."""
        return memory_of_cuts(problem, self.batch_size)


def memory_of_cuts(problem: Problem, batch_size: int | None) -> Footprint:
    """The peak memory of measuring edges alone."""
    trials = 8 * ROWS_AT_ONCE * problem.model.config.d_model
    return of_engines(problem, len(problem.graph.writers), examples_at_once(problem, batch_size), trials)


def seconds_of_a_cut(problem: Problem, batch_size: int | None) -> float:
    """Mean seconds of cutting one edge alone, over edges with equal weight."""
    graph = problem.graph
    examples = examples_at_once(problem, batch_size)
    sizes = graph.edges.sum(0).tolist()

    def trial(reader: int) -> float:
        edges = torch.zeros_like(graph.edges)
        edges[graph.edges[:, reader].nonzero().flatten()[:_TRIALS], reader] = True
        whole = seconds_of(lambda: effects_of(problem, edges, examples, ProgressCounter(1, None)))
        start = seconds_of(lambda: effects_of(problem, torch.zeros_like(edges), examples, ProgressCounter(1, None)))
        return max(whole - start, 0.0) / int(edges.sum())

    return mean(trial(reader) for reader in drawn(range(len(sizes)), sizes))


@torch.no_grad()
def effects_of(
    problem: Problem,
    edges: Bool[Tensor, "writer reader"],
    examples: int,
    rounds: ProgressCounter,
    restoring: bool = False,
    journal: Journal = FORGETFUL,
) -> Float[Tensor, "writer reader"]:
    """Effects of the given edges, 0 elsewhere.

    Args:
        examples: number of examples at once.
        rounds: receives the finished part of ``work_of_cuts``, reader by reader.
        restoring: measure the gain from restoring an edge in the corrupted run, instead of the cost of cutting it.
        journal: stores the effects of the edges into each reader.
    """
    graph = problem.graph
    batches = Batches.start(problem, examples, restoring=restoring).map(open_all)
    whole = batches.loss().mean()
    rows = max(len(engine.run.rows.changed.flat) for engine in batches.engines)
    scores = torch.zeros(graph.edges.shape, dtype=torch.float64)

    def effects(reader: int) -> Float[Tensor, " edge"]:
        writers = edges[:, reader].nonzero().flatten()
        parts = writers.split(max(1, ROWS_AT_ONCE // rows))
        return torch.cat([(in_parts(*_trials(batches, reader, part.tolist()), after_each_other) - whole).cpu() for part in parts])

    readers = edges.any(0).nonzero().flatten().tolist()
    for reader, found in zip(
        readers, each(journal, ((_key(graph, edges, r, (examples, restoring)), r) for r in readers), effects), strict=True
    ):
        scores[edges[:, reader], reader] = found
        rounds.done(len(found) * _units_above(graph, reader))
    return scores


def work_of_cuts(graph: Graph, edges: Bool[Tensor, "writer reader"]) -> int:
    """Work of cutting these edges one at a time: the number of units that run again."""
    counts = edges.sum(0).tolist()
    return sum(count * _units_above(graph, reader) for reader, count in enumerate(counts))


def _units_above(graph: Graph, reader: int) -> int:
    """Number of units that run again after a cut into a reader, its own included."""
    return len(graph.units) - graph.unit_of[reader]


def _key(graph: Graph, edges: Bool[Tensor, "writer reader"], reader: int, how: tuple[int, bool]) -> str:
    """The key of one reader's unit of work."""
    writers = edges[:, reader].nonzero().flatten().tolist()
    return f"{graph.readers[reader]}/effects/{sha256(repr((writers, how)).encode()).hexdigest()[:32]}"


def _trials(batches: Batches, reader: int, writers: Sequence[int]) -> tuple[Callable[[range], Tensor], range]:
    """A function that returns the mean losses of some trials, and the range of all trials."""

    def losses(some: range) -> Float[Tensor, " trial"]:
        cut = [writers[i] for i in some]
        return batches.losses(lambda _, engine: try_singly(engine, reader, cut)).mean(-1)

    return losses, range(len(writers))
