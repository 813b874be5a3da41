"""Outlines of ACDC searches: a fast rough version of ``acdc`` that predicts the search's trials and time.

    seconds = trials · mean seconds of a trial, readers drawn in proportion to their trials

The outline cuts 64 edges into a reader at once. If that worsens the metric by less than τ, all of them are cut; the search
would have tried each one. Otherwise it tries groups of eight, and then single edges. Edges of a block whose effects cancel
are all cut, so the result is not a circuit. It has about the size of the circuit, and its decisions come in about the same
order, which gives the number of trials (``trials_of``).

Of more than eight examples, only the first eight are used: circuits grow slowly with their number (SmolLM2-135M at τ = 0.1 keeps
17 edges on 8 prompts and 19 on 32).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median
from time import perf_counter

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.engine.exact import Visit
from subcircuit.graph import Graph
from subcircuit.model.transformer import Transformer
from subcircuit.search.acdc_rules import CutRules, Rule, Speculation, cutting_order, singles, visiting_order
from subcircuit.search.acdc_state import PAIRS_AT_ONCE, are_tried_whole, mean_loss
from subcircuit.search.batches import Batches
from subcircuit.search.cost import SearchCost, drawn, seconds_of
from subcircuit.search.problem import Problem
from subcircuit.units.rows import Reach

_EXAMPLES = 8
# numbers of edges that are cut together, and number of such cuts tried at once
_BLOCKS, _AT_ONCE = (64, 8, 1), 8


@dataclass(frozen=True)
class SketchStage:
    """Consecutive decisions: on the edges into a reader, or on whole readers of a unit.

    Args:
        unit: index of the unit.
        readers: the reader, or the readers that are cut as wholes.
        whole: whether the decisions are on whole readers.
        reach: the rows at which the first reader matters.
        stays: per edge or reader in the order of the search, whether it stays.
    """

    unit: int
    readers: tuple[int, ...]
    whole: bool
    reach: Reach
    stays: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class Sketch:
    """The outline of a search.

    Args:
        stages: in the order of the search.
        kept: edges that stay; all edges where units were not visited.
        first: the last unit that was visited; 0 is the model's first unit.
    """

    stages: tuple[SketchStage, ...]
    kept: Bool[Tensor, "writer reader"]
    first: int


@torch.no_grad()
def sketch(problem: Problem, config: CutRules, restoring: bool, patience: float) -> Sketch:
    """The outline of a search.

    Args:
        problem, config: of the search.
        restoring: see ``Batches.start``.
        patience: seconds after which no further unit is visited; at least one is.

    Raises:
        NumericalError: a loss is NaN or infinite.
    """
    model, graph = problem.model, problem.graph
    some = replace(problem, task=problem.task[:_EXAMPLES])
    batches = Batches.start(some, _EXAMPLES, cutting_order(graph, config.head_order), restoring)
    drawing, stages, began = _Drawing(model, graph, config, batches), list[SketchStage](), perf_counter()
    unit = len(graph.units)
    while unit and (not stages or perf_counter() - began < patience):
        unit -= 1
        stages += drawing.visit(unit)
    return Sketch(tuple(stages), drawing.kept, unit)


class _Drawing:
    """The mutable state of an outline; everything else in this module is immutable."""

    def __init__(self, model: Transformer, graph: Graph, config: CutRules, batches: Batches):
        self.model, self.graph, self.config, self.batches = model, graph, config, batches
        self.kept = graph.edges.clone()
        self.speculation = Speculation(config.speculation, PAIRS_AT_ONCE)
        self.current = 0.0

    def visit(self, unit: int) -> Iterator[SketchStage]:
        """Decisions on the edges into a unit; all units downstream must be decided."""
        self.batches = self.batches.map(lambda engine: engine.open(unit))
        self.current = self._mean(self.batches.loss())
        live = [r for r in visiting_order(self.graph, unit, self.config.head_order) if self.batches.first.is_live(r)]
        self.kept[:, [r for r in self.graph.readers_in[unit] if r not in live]] = False
        if are_tried_whole(self.graph, live, self.config):
            stays = self._whole(live)
            yield SketchStage(unit, tuple(live), True, self._reach(live[0]), tuple(stays))
            live = [reader for reader, stay in zip(live, stays, strict=True) if stay]
        for reader in live:
            yield SketchStage(unit, (reader,), False, self._reach(reader), tuple(self._edges(reader)))

    def _whole(self, readers: Sequence[int]) -> list[bool]:
        """Per reader, whether it stays when it is cut from all its writers, after the cuts before it."""
        stays: list[bool] = []
        rows = len(self.batches.visit(readers[0])[0].base)
        while waiting := readers[len(stays) :]:
            batch = waiting[: self.speculation.size(rows)]
            cut = self._accepted(self.batches.try_readers(singles(batch)))
            self.speculation.learn(cut, kept=cut < len(batch))
            self.kept[:, batch[:cut]] = False
            self._commit(batch[:cut])
            stays += [False] * cut + [True] * (cut < len(batch))
        return stays

    def _edges(self, reader: int) -> list[bool]:
        """Per edge into a reader, whether it stays, from the latest writer to the earliest."""
        visits, stays = self.batches.visit(reader), list[bool]()
        writers = visits[0].order[: visits[0].left][::-1]
        while limit := visits[0].left:
            for block in _BLOCKS:
                tried = min(limit // block, _AT_ONCE)
                if not tried:
                    continue
                cut = self._accepted(self.batches.try_edges([_thinned(visit, block) for visit in visits], range(1, tried + 1)))
                keep = block == 1 and cut < tried
                visits = self.batches.decide(visits, block * cut, keep)
                stays += [False] * (block * cut) + [True] * keep
                if cut == tried:
                    break
                # a block that is refused is tried in parts
                limit = block
        self.kept[[writer for writer, stay in zip(writers, stays, strict=True) if not stay], reader] = False
        self._commit([reader])
        return stays

    def _accepted(self, losses: Float[Tensor, "trial batch"]) -> int:
        """The number of cuts before the first one that worsens the metric by the threshold or more."""
        for accepted, row in enumerate(losses):
            change = self._mean(row) - self.current
            if Rule(1.0, self.config.absolute).size(change) >= self.config.threshold:
                return accepted
            self.current += change
        return len(losses)

    def _commit(self, readers: Sequence[int]) -> None:
        # engines keep a reference to the mask
        kept = self.kept.clone()
        if bool((self.batches.kept[:, readers] != kept[:, readers]).any()):
            self.batches = self.batches.map(lambda engine: engine.commit(kept, readers))
            self.current = self._mean(self.batches.loss())

    def _reach(self, reader: int) -> Reach:
        return self.batches.first.live.reader_reach(reader // len(self.graph.positions))

    def _mean(self, losses: Float[Tensor, " batch"]) -> float:
        return mean_loss(losses, "some of its edges cut", self.model)


def _thinned(visit: Visit, block: int) -> Visit:
    """The same visit with every ``block`` edges merged into one."""
    return replace(visit, prefixes=visit.prefixes[visit.left % block :: block], left=visit.left // block)


def trials_of(stays: Sequence[bool], speculation: Speculation, rows: int) -> list[int]:
    """The number of trials in each batch that ``acdc`` needs for these decisions, discarded trials included.

    Args:
        stays: the decisions in order.
        speculation: its state after all earlier decisions; it is updated with these.
        rows: rows of the reader in one trial.
    """
    sizes, left = list[int](), tuple(stays)
    while left:
        tried = left[: speculation.size(rows)]
        cut = tried.index(True) if True in tried else len(tried)
        speculation.learn(cut, kept=cut < len(tried))
        sizes.append(len(tried))
        left = left[cut + 1 :] if cut < len(tried) else left[cut:]
    return sizes


@torch.no_grad()
def cost_of_cutting(problem: Problem, config: CutRules, ends: Sequence[bool], patience: float) -> SearchCost:
    """Seconds and trials of a search from each end, from its outline and from timed trials along it.

    Args:
        ends: whether each search restores, see ``Batches.start``.
        patience: seconds for outlines. Units not visited by then are assumed to need as many trials per edge as the last visited ones.
    """
    outlines = [sketch(problem, config, restoring, patience / len(ends)) for restoring in ends]
    parts = [_along(problem, config, outline, at) for outline, at in zip(outlines, ends, strict=True)]
    return SearchCost(
        seconds=sum(part.seconds for part in parts),
        ran=problem,
        trials=sum(part.trials or 0 for part in parts),
        kept=sum(part.kept or 0 for part in parts),
        seen=mean(part.seen for part in parts),
    )


def _along(problem: Problem, config: CutRules, outline: Sketch, restoring: bool) -> SearchCost:
    graph = problem.graph
    pairs = config.batch_size or PAIRS_AT_ONCE
    examples = min(pairs, len(problem.task))
    start = Batches.start(problem, examples, cutting_order(graph, config.head_order), restoring)
    speculation, rows = Speculation(config.speculation, pairs // examples), start.first.run.rows
    sizes = [trials_of(stage.stays, speculation, len(rows[stage.reach].flat)) for stage in outline.stages]
    trials = [sum(batches) for batches in sizes]
    seconds = [0.0] * len(trials)
    timed = drawn(range(len(trials)), trials)
    for number in sorted(set(timed)):
        seconds[number] = _stage_seconds(graph, start, outline, outline.stages[number], sizes[number])
    a_trial = [seconds[number] / trials[number] for number in timed]
    more = _unseen(graph, outline, trials)
    # the units visited last resemble the unvisited ones most
    rest = more * mean(a_trial[-max(1, len(a_trial) // 3) :])
    return SearchCost(
        seconds=sum(trials) * mean(a_trial) + rest,
        ran=problem,
        trials=round(sum(trials) + more),
        kept=sum(sum(stage.stays) for stage in outline.stages if not stage.whole),
        seen=1 - _edges_before(graph, outline.first) / graph.n_edges,
    )


def _stage_seconds(graph: Graph, start: Batches, outline: Sketch, stage: SketchStage, sizes: Sequence[int]) -> float:
    """Seconds of a stage: its trials, extrapolated from one batch of the most common size, and the commit of its cuts."""
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
    trials()  # the first run warms up memory, so the timed run is like those in the search
    commit = seconds_of(lambda: batches.map(lambda engine: engine.commit(after, readers)).loss())
    a_trial = seconds_of(trials) / (len(readers) if stage.whole else size)
    return a_trial * sum(sizes) + commit * (len(sizes) if stage.whole else 1)


def _unseen(graph: Graph, outline: Sketch, trials: Sequence[int]) -> float:
    """Trials at units that were not visited, assuming as many per edge as in the later half of the visited units."""
    if outline.first == 0:
        return 0.0
    middle = (len(graph.units) + outline.first + 1) // 2
    late = sum(n for n, stage in zip(trials, outline.stages, strict=True) if stage.unit < middle)
    edges = _edges_before(graph, middle) - _edges_before(graph, outline.first)
    return late * _edges_before(graph, outline.first) / max(1, edges)


def _edges_before(graph: Graph, unit: int) -> int:
    """Edges into units before one."""
    return sum(int(graph.edges[:, list(readers)].sum()) for readers in graph.readers_in[:unit])
