"""What a search will cost, from small parts of it that are run and measured.

    seconds = seconds on a few examples · how much more all of them take               attribution, training
    seconds = edges · mean seconds of a trial, readers drawn in proportion to their edges       exact
    seconds = trials · mean seconds of a trial, readers drawn in proportion to their trials     acdc
    seconds = that of the seed's acdc + rounds · seconds of a round's gradients                 refine

The second factor of the first is the geometric mean of the number of examples and of what a forward pass takes more.

How many trials ``acdc`` needs depends on what it keeps: a search in outline tells (``sketch.py``). Where that has not come
to the first layer in time, the rest of the graph is taken to need as many trials an edge as what was seen last. Peak memory
is that of the parts that were run, and where they were run on fewer examples, what more of them add (``footprint.py``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import sqrt
from statistics import mean, median
from time import perf_counter
from typing import TypeVar

import torch

from subcircuit.engine.memory import peak_memory
from subcircuit.entry import entry
from subcircuit.graph import Circuit, Graph
from subcircuit.search.acdc import Acdc
from subcircuit.search.attribution import Rounds, examples_at_once
from subcircuit.search.batches import Batches
from subcircuit.search.direction import ENDS
from subcircuit.search.eap_ig_inputs import EapIgInputs
from subcircuit.search.exact import Exact, effects_of
from subcircuit.search.footprint import Footprint, footprint
from subcircuit.search.groups import singles
from subcircuit.search.hybrid import Hybrid
from subcircuit.search.method import Method
from subcircuit.search.methods import method_of
from subcircuit.search.optimal import LearnOptimal, learn_optimal
from subcircuit.search.order import cutting_order
from subcircuit.search.problem import Problem
from subcircuit.search.refine import ALPHAS, Refine, Refinement, coarse
from subcircuit.search.scores import time_forward
from subcircuit.search.sketch import Sketch, Stage, sketch, trials_of
from subcircuit.search.speculation import Speculation
from subcircuit.search.walk import PAIRS_AT_ONCE

# readers at which trials are timed, and how many trials there
_PLACES, _TRIALS = 12, 16
# examples on which methods run that score all edges together, and steps of those that train
_EXAMPLES, _STEPS = 2, 3
# of growth: fewer are seldom enough
_LEAST_ROUNDS = 4
# seconds of a run that is worth doing twice
_QUICK = 2.0

Item = TypeVar("Item")


@dataclass(frozen=True)
class Estimate:
    """What a search will cost.

    Args:
        method: its name.
        edges: of the graph.
        seconds: of the search in one process, without loading.
        forward_seconds: one plain forward pass over the prompts.
        trials: circuits that are evaluated; None for methods that score all edges together.
        kept: edges that stay, roughly; None for methods of which that is asked for.
        seen: the share of the edges that it is judged by.
        memory: what takes memory at the peak.
        peak: bytes of the process at the peak; of tensors alone on an accelerator, and where a process's cannot be told.
        cost: seconds that it took to know.
    """

    method: str
    edges: int
    seconds: float
    forward_seconds: float
    trials: int | None
    kept: int | None
    seen: float
    memory: Footprint
    peak: int
    cost: float

    @property
    def forward_equivalents(self) -> float:
        """Cost in units of one plain forward pass."""
        return self.seconds / self.forward_seconds


@dataclass(frozen=True)
class _Measured:
    """What parts of a search have told, and whether they were run on all its examples."""

    seconds: float
    whole: Problem
    trials: int | None = None
    kept: int | None = None
    seen: float = 1.0


@entry
def estimate(
    problem: Problem, settings: Method | type[Method] | str, learning: LearnOptimal | None = None, patience: float = 60.0
) -> Estimate:
    """Predict what a search will cost.

    Args:
        problem: as the search will be given it.
        settings: of the method, or its name.
        learning: how constants are learned before the search; until then those of the behaviour stand in for them.
        patience: seconds after which ``acdc`` is judged by what has been seen.

    Raises:
        SettingsError: the method does not go with the metric or the ablation.
        NumericalError: a loss or score is NaN or infinite.
    """
    model, graph = problem.model, problem.graph
    began, settings = perf_counter(), method_of(settings)
    settings.check(problem)
    with peak_memory(model.device) as peak:
        forward = median(time_forward(problem))
        learned = 0.0 if learning is None else _learning(problem, learning)
        match settings:
            case Acdc():
                found = _acdc(problem, settings, patience)
            case Refine():
                found = _refining(problem, settings, patience)
            case Exact():
                trials = graph.n_edges * len(ENDS[settings.direction])
                found = _Measured(trials * _single_cut(problem, settings.batch_size), problem, trials)
            case Hybrid(most=most, sample=sample, steps=steps, batch_size=size):
                cuts, first = min(graph.n_edges, most + sample), EapIgInputs(steps, size)
                seconds = _together(problem, first, forward).seconds
                found = _Measured(seconds + cuts * _single_cut(problem, size), problem, cuts)
            case _:
                found = _together(problem, settings, forward)
    whole = footprint(problem, settings)
    run = whole if found.whole is problem else footprint(found.whole, settings)
    highest = whole.total if peak.size is None else peak.size + max(0, whole.total - run.total)
    return Estimate(
        method=settings.name,
        edges=graph.n_edges,
        seconds=learned + found.seconds,
        forward_seconds=forward,
        trials=found.trials,
        kept=found.kept,
        seen=found.seen,
        memory=whole,
        peak=highest,
        cost=perf_counter() - began,
    )


def _learning(problem: Problem, config: LearnOptimal) -> float:
    """Seconds of learning constants, going by a few steps."""
    short = replace(config, steps=min(_STEPS, config.steps))
    return _seconds(lambda: learn_optimal(problem, short)) * config.steps / short.steps


def _together(problem: Problem, settings: Method, forward: float) -> _Measured:
    """A method whose cost grows with the examples and with the steps of its optimiser, and with nothing that it finds."""
    few, trained = replace(problem, task=problem.task[:_EXAMPLES]), hasattr(settings, "learning_rate")
    whole = int(getattr(settings, "steps", 1)) if trained else 1
    short = replace(settings, steps=min(_STEPS, whole)) if trained else settings
    runs = [short.search(few)]
    if runs[0].seconds < _QUICK:
        # the first time is slower than those after it
        runs.append(short.search(few))
    steps = whole / min(_STEPS, whole)
    examples, passes = len(problem.task) / len(few.task), forward / runs[-1].forward_seconds
    # a few examples leave a forward pass waiting for the weights, more than they do a method with larger matrices
    return _Measured(runs[-1].seconds * steps * sqrt(examples * passes), few)


def _single_cut(problem: Problem, size: int | None) -> float:
    """Mean seconds of cutting one edge alone, all edges being as likely."""
    graph = problem.graph
    examples = examples_at_once(problem, size)
    sizes = graph.edges.sum(0).tolist()

    def trial(reader: int) -> float:
        edges = torch.zeros_like(graph.edges)
        edges[graph.edges[:, reader].nonzero().flatten()[:_TRIALS], reader] = True
        whole = _seconds(lambda: effects_of(problem, edges, examples, Rounds(1, None)))
        start = _seconds(lambda: effects_of(problem, torch.zeros_like(edges), examples, Rounds(1, None)))
        return max(whole - start, 0.0) / int(edges.sum())

    return mean(trial(reader) for reader in _drawn(range(len(sizes)), sizes))


@torch.no_grad()
def _refining(problem: Problem, config: Refine, patience: float) -> _Measured:
    """The search for the seed, and rounds of growth by half its edges; pruning costs little beside them."""
    seed = _acdc(problem, coarse(problem, config), patience)
    rounds = min(config.rounds, max(_LEAST_ROUNDS, round((seed.kept or 0) / 2 / config.grow)))
    few = replace(problem, task=problem.task[:_EXAMPLES], validation=None)
    state = Refinement(few, Circuit.empty(problem.graph), config)
    gradient = _seconds(lambda: state.gain((0.0,), state.at_circuit)) / len(few.task)
    n = len(problem.task)
    passes = min(config.circuit_examples, n) + len(ALPHAS) * min(config.path_examples, n)
    return replace(seed, seconds=seed.seconds + rounds * passes * gradient, kept=None)


@torch.no_grad()
def _acdc(problem: Problem, config: Acdc, patience: float) -> _Measured:
    """Outlines of the search from each end, and trials of the search itself along them."""
    ends = ENDS[config.direction]
    outlines = [sketch(problem, config, restoring, patience / len(ends)) for restoring in ends]
    parts = [_along(problem, config, outline, at) for outline, at in zip(outlines, ends, strict=True)]
    return _Measured(
        seconds=sum(part.seconds for part in parts),
        whole=problem,
        trials=sum(part.trials or 0 for part in parts),
        kept=sum(part.kept or 0 for part in parts),
        seen=mean(part.seen for part in parts),
    )


def _along(problem: Problem, config: Acdc, outline: Sketch, restoring: bool) -> _Measured:
    graph = problem.graph
    pairs = config.batch_size or PAIRS_AT_ONCE
    examples = min(pairs, len(problem.task))
    start = Batches.start(problem, examples, cutting_order(graph, config.head_order), restoring)
    speculation, rows = Speculation(config.speculation, pairs // examples), start.first.run.rows
    sizes = [trials_of(stage.stays, speculation, len(rows[stage.reach].flat)) for stage in outline.stages]
    trials = [sum(batches) for batches in sizes]
    seconds = [0.0] * len(trials)
    drawn = _drawn(range(len(trials)), trials)
    for number in sorted(set(drawn)):
        seconds[number] = _stage_seconds(graph, start, outline, outline.stages[number], sizes[number])
    a_trial = [seconds[number] / trials[number] for number in drawn]
    more = _unseen(graph, outline, trials)
    # the last that were seen are most like those that were not
    rest = more * mean(a_trial[-max(1, len(a_trial) // 3) :])
    return _Measured(
        seconds=sum(trials) * mean(a_trial) + rest,
        whole=problem,
        trials=round(sum(trials) + more),
        kept=sum(sum(stage.stays) for stage in outline.stages if not stage.whole),
        seen=1 - _edges_before(graph, outline.first) / graph.n_edges,
    )


def _stage_seconds(graph: Graph, start: Batches, outline: Sketch, stage: Stage, sizes: Sequence[int]) -> float:
    """Seconds of a stage: of its batches of trials, going by one of the size of most, and of making cuts definite."""
    before, later = graph.edges.clone(), [reader for readers in graph.readers_in[stage.unit + 1 :] for reader in readers]
    before[:, later] = outline.kept[:, later]
    batches, size = start.map(lambda engine: engine.restore(before, stage.unit)), round(median(sizes))
    readers = stage.readers[:size] if stage.whole else stage.readers
    visits = batches.visit(readers[0])

    def trials() -> None:
        if stage.whole:
            batches.try_readers(singles(readers))
        else:
            batches.try_edges(visits, range(1, size + 1))

    after = before.clone()
    after[:, list(readers)] = outline.kept[:, list(readers)]
    trials()  # what follows finds its memory warm, as in the search
    commit = _seconds(lambda: batches.map(lambda engine: engine.commit(after, readers)).loss())
    a_trial = _seconds(trials) / (len(readers) if stage.whole else size)
    return a_trial * sum(sizes) + commit * (len(sizes) if stage.whole else 1)


def _unseen(graph: Graph, outline: Sketch, trials: Sequence[int]) -> float:
    """Trials at units that were not visited: as many an edge as in the later half of those that were."""
    if outline.first == 0:
        return 0.0
    middle = (len(graph.units) + outline.first + 1) // 2
    late = sum(n for n, stage in zip(trials, outline.stages, strict=True) if stage.unit < middle)
    edges = _edges_before(graph, middle) - _edges_before(graph, outline.first)
    return late * _edges_before(graph, outline.first) / max(1, edges)


def _edges_before(graph: Graph, unit: int) -> int:
    """Edges into units before one."""
    return sum(int(graph.edges[:, list(readers)].sum()) for readers in graph.readers_in[:unit])


def _drawn(items: Sequence[Item], weights: Sequence[int]) -> list[Item]:
    """Some items in their order, spread so that each comes as often as its weight says."""
    total, sums = sum(weights), list(accumulate(weights))
    at = [(place + 0.5) * total / _PLACES for place in range(_PLACES)]
    return [items[next(i for i, reached in enumerate(sums) if reached >= there)] for there in at]


def _seconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began
