"""State of a running ACDC search: a walk over the readers from the logits backwards.

``acdc.py`` defines the rule and the order of decisions. This module takes the decisions from batches of trial losses and
applies them to the engines.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import accumulate, chain
from time import perf_counter
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.engine.exact import Visit
from subcircuit.errors import NumericalError
from subcircuit.graph import Circuit, Graph
from subcircuit.model.transformer import Transformer
from subcircuit.search.acdc_rules import (
    CutRules,
    Group,
    Rule,
    Speculation,
    Within,
    by_unit,
    cutting_order,
    left_over,
    singles,
    visiting_order,
)
from subcircuit.search.batches import Batches
from subcircuit.search.borderline import TIE, Borderline
from subcircuit.search.cost import Forecast, Pending
from subcircuit.search.journal import FORGETFUL, Journal, each, once
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, Progress

# rows of matrix products grow with (circuit, example) pairs: enough for efficient products, few enough to stay in cache
PAIRS_AT_ONCE = 512

Cells: TypeAlias = tuple[slice | list[int], list[int]]
Cut: TypeAlias = tuple[Group, Group | None]
"""Readers, and the writers that they are cut from; None means all writers."""
Visits: TypeAlias = tuple[Visit, ...]
"""One visit per batch of examples."""


@dataclass(frozen=True, eq=False)
class _Trials:
    """Trials that run together: the first cut, the first two, …, starting from the visits after a given number of cuts."""

    visits: Visits
    cuts: list[Cut]
    counts: list[int]


class Walk:
    """The mutable state of one search; everything else in this module is immutable."""

    def __init__(
        self,
        problem: Problem,
        config: CutRules,
        on_step: OnProgress | None,
        journal: Journal = FORGETFUL,
        restoring: bool = False,
        within: Within | None = None,
    ):
        model, graph = problem.model, problem.graph
        self.within = within
        self.model, self.graph, self.problem, self.config = model, graph, problem, config
        self.on_step, self.journal, self.restoring = on_step, journal, restoring
        pairs = config.batch_size or PAIRS_AT_ONCE
        self.examples = min(pairs, len(problem.task))
        self.batches = self.start(restoring, self.examples)
        self.kept = graph.edges.clone()
        self.visited = torch.zeros(len(graph.readers), dtype=torch.bool)
        self.effects = torch.full(graph.edges.shape, float("nan"))
        self.current = self._first_loss()
        self.borderline = Borderline(problem, self.examples, abs(self.current), restoring)
        self.speculation = Speculation(config.speculation, pairs // self.examples)
        start = f"restoring {restoring}, heads {config.head_order}, {self.examples} examples at once"
        self.history = f"{start}, {graph.scope_text}, {within and within.digest}"
        self.decided, self.trials, self.began = 0, 0, perf_counter()
        wholes = [are_tried_whole(graph, readers, config) for readers in graph.readers_in]
        before = torch.zeros_like(graph.edges) if within is None else within.kept & ~within.tried
        self.forecast = Forecast(graph, self._open_edges(), before, wholes)

    def start(self, restoring: bool, examples: int) -> Batches:
        """Engines without any decision, with this many examples each."""
        order = cutting_order(self.graph, self.config.head_order)
        return Batches.start(self.problem, examples, order, restoring)

    @property
    def seconds(self) -> float:
        """Seconds since the search began."""
        return perf_counter() - self.began

    def _first_loss(self) -> float:
        opened = self.batches.map(lambda engine: engine.open(len(self.graph.units) - 1))
        return self._mean(opened.loss(), "nothing")

    def run(self) -> None:
        """Visit all units from the logits backwards."""
        for unit in reversed(range(len(self.graph.units))):
            self.batches = self.batches.map(lambda engine: engine.open(unit))  # noqa: B023 - called at once
            live = [r for r in visiting_order(self.graph, unit, self.config.head_order) if self.batches.first.is_live(r)]
            dead = [r for r in self.graph.readers_in[unit] if r not in live]
            self.kept[:, dead] = False
            self.decided += int(self.graph.edges[:, dead].sum())
            if self.within is not None:
                live = self._decided_before(self.within, live)
            if are_tried_whole(self.graph, live, self.config):
                live = self._whole_inputs(unit, live)
            for number, reader in enumerate(live, 1):
                self._edges(unit, reader, live[number:])
            self.visited[list(self.graph.readers_in[unit])] = True
        self._report(None)

    def _decided_before(self, within: Within, readers: list[int]) -> list[int]:
        """Cut the edges that earlier decisions exclude; return the readers that still have undecided edges."""
        self.kept[:, readers] &= within.kept[:, readers]
        self.decided += int((self.graph.edges & ~within.tried)[:, readers].sum())
        self.batches = self.batches.map(lambda engine: engine.commit(self.kept, readers))
        self.current = self._mean(self.batches.loss(), "what was decided before")
        return [reader for reader in readers if within.writers(reader)]

    def _whole_inputs(self, unit: int, readers: list[int]) -> list[int]:
        """Try to cut fully undecided readers from all their writers at once; return the readers that stay."""
        if self.within is not None:
            waiting = [reader for reader in readers if self.within.whole(reader)]
            others = [reader for reader in readers if reader not in waiting]
            return sorted(others + self._cut_whole(unit, waiting), key=readers.index) if waiting else others
        return self._cut_whole(unit, readers)

    def _cut_whole(self, unit: int, readers: list[int]) -> list[int]:
        waiting = [tuple(readers)] if self.config.coarse_to_fine else singles(readers)
        staying, rows = [], len(self.batches.visit(readers[0])[0].base)
        while waiting:
            batch = waiting[: self.speculation.size(rows)]
            cuts: list[Cut] = [(group, None) for group in batch]
            losses = once(self.journal, self._key("trials", cuts), lambda: self.batches.try_readers(batch))  # noqa: B023 - called at once
            cut = self._judge(unit, losses, cuts)
            gone = list(chain.from_iterable(batch[:cut]))
            stays, waiting = left_over(waiting, cut, len(batch))
            staying += stays
            self.decided += int(self._open_edges()[:, gone].sum())
            self._commit(gone)
            self.forecast.wholes(self.seconds, cut + (cut < len(batch)), len(stays))
            self._report(Pending(batch[0][0], 0, staying, list(chain.from_iterable(waiting))))
        return staying

    def _open_edges(self) -> Bool[Tensor, "writer reader"]:
        """The edges that this search decides on."""
        return self.graph.edges if self.within is None else self.within.tried

    def _edges(self, unit: int, reader: int, others: Sequence[int]) -> None:
        """Decide on the edges into one reader, in order; the unit's others follow."""
        visits = self.batches.visit(reader, None if self.within is None else self.within.writers(reader))
        order = visits[0].order[: visits[0].left][::-1]
        waiting = by_unit(self.graph, order) if self.config.coarse_to_fine else singles(order)
        while waiting:
            coming = self._batches_of_trials(visits, reader, waiting)
            first = next(coming)
            losses = next(each(self.journal, chain([first], coming), self._try_edges))
            cut = self._judge(unit, losses, first[1].cuts)
            gone = sum(map(len, waiting[:cut]))
            stays, waiting = left_over(waiting, cut, len(first[1].cuts))
            visits = self.batches.decide(visits, gone, keep=bool(stays))
            self.decided += gone + len(stays)
            self.forecast.edges(reader, self.seconds, cut + (cut < len(first[1].cuts)), gone + len(stays))
            self._report(Pending(reader, sum(map(len, waiting)), others))
        self._commit([reader])
        self.visited[reader] = True
        self.forecast.decided(self.kept[:, reader])

    def _batches_of_trials(self, visits: Visits, reader: int, waiting: Sequence[Group]) -> Iterator[tuple[str, _Trials]]:
        """The next batches of trials as units of work, on the assumption that all edges in each batch are cut."""
        speculation, history = replace(self.speculation), self.history
        while waiting:
            batch = waiting[: speculation.size(len(visits[0].base))]
            cuts: list[Cut] = [((reader,), group) for group in batch]
            counts = list(accumulate(map(len, batch)))
            yield self._key("trials", cuts, history), _Trials(visits, cuts, counts)
            history = self._key(str(len(cuts)), cuts, history)
            speculation.learn(len(cuts), kept=False)
            visits, waiting = self.batches.decide(visits, counts[-1], keep=False), waiting[len(batch) :]

    def _try_edges(self, trials: _Trials) -> Float[Tensor, "trial batch"]:
        return self.batches.try_edges(trials.visits, trials.counts)

    def _key(self, kind: str, cuts: list[Cut], history: str | None = None) -> str:
        """The key of a unit of work. Its loss depends on the cuts and on all earlier decisions (``history``, by default those so far)."""
        before = self.history if history is None else history
        return f"{self.graph.readers[cuts[0][0][0]]}/{kind}/{sha256(repr((before, cuts)).encode()).hexdigest()[:32]}"

    def _judge(self, unit: int, losses: Float[Tensor, "trial batch"], cuts: list[Cut]) -> int:
        """Take decisions in order up to the first kept edge; return the number of cuts accepted before it.

        Args:
            losses: after the first cut, the first two, …
            cuts: per trial, the cut that it adds.
        """
        self.trials += len(losses)
        kept = self.kept.clone()
        for accepted, cut in enumerate(cuts):
            loss = self._mean(losses[accepted], _name(self.graph, cut))
            change, keep = self._decide(loss - self.current, kept, unit, cut)
            where = _cells(cut)
            if cut[1] is not None and len(cut[1]) == 1:
                self.effects[where] = change
            if keep:
                break
            kept[where] = False
            self.current = loss
        else:
            accepted = len(cuts)
        self.kept = kept
        self.history = self._key(str(accepted), cuts)
        self.speculation.learn(accepted, kept=accepted < len(cuts))
        return accepted

    def _decide(self, change: float, kept: Bool[Tensor, "writer reader"], unit: int, cut: Cut) -> tuple[float, bool]:
        """The change that a cut makes to circuit ``kept``, and whether its edges are kept."""
        rule = Rule.of(cut[0] if cut[1] is None else cut[1], self.config.absolute)
        threshold = self.config.threshold * rule.share
        if not self.borderline.is_close(rule.size(change), threshold):
            return change, rule.size(change) >= threshold
        after = kept.clone()
        after[_cells(cut)] = False
        self.borderline.count_one()
        change = float(once(self.journal, self._key("float64", [cut]), lambda: self.borderline.change(kept, unit, cut[0], after)))
        return change, rule.size(change) >= threshold - TIE

    def _commit(self, readers: list[int]) -> None:
        """Commit the accepted cuts, and update the rounding tolerance from the gap between trial and recomputed loss."""
        if bool((self.batches.kept[:, readers] != self.kept[:, readers]).any()):
            self.batches = self.batches.map(lambda engine: engine.commit(self.kept, readers))
            settled = float(self.batches.loss().mean())
            self.borderline.observe(abs(settled - self.current))
            self.current = settled

    def _mean(self, losses: Float[Tensor, " batch"], what: str) -> float:
        return mean_loss(losses, f"{what} {'restored' if self.restoring else 'cut'}", self.model)

    def _so_far(self) -> Circuit:
        return Circuit(self.graph, self.kept & self.visited, self.effects)

    def _report(self, pending: Pending | None) -> None:
        """Report the progress; nothing is pending at the end."""
        if self.on_step is None:
            return
        seconds, undecided = self.seconds, self.graph.n_edges - self.decided
        self.on_step(
            Progress(
                "acdc",
                seconds,
                seconds if pending is None else self.forecast.total(seconds, pending),
                seconds,
                numbers={"edges kept": int(self.kept.sum()) - undecided, "trials": self.trials},
                circuit=self._so_far,
            )
        )


def are_tried_whole(graph: Graph, readers: Sequence[int], config: CutRules) -> bool:
    """Whether a unit's live readers are first cut from all their writers at once."""
    return config.whole_input and not all(graph.units[graph.unit_of[r]].is_whole for r in readers)


def _cells(cut: Cut) -> Cells:
    readers, writers = cut
    return slice(None) if writers is None else list(writers), list(readers)


def _name(graph: Graph, cut: Cut) -> str:
    readers, writers = cut
    if writers is None:
        return f"all edges into {', '.join(str(graph.readers[reader]) for reader in readers)}"
    return ", ".join(str(graph.edge(writer, readers[0])) for writer in writers)


def mean_loss(losses: Float[Tensor, " batch"], what: str, model: Transformer) -> float:
    """The mean loss over all examples.

    Raises:
        NumericalError: a loss is NaN or infinite; the message says ``what`` was done to the model.
    """
    if not bool(losses.isfinite().all()):
        raise _not_finite(losses, what, model)
    return float(losses.mean())


def _not_finite(losses: Float[Tensor, " batch"], what: str, model: Transformer) -> NumericalError:
    bad = (~losses.isfinite()).nonzero().flatten().tolist()
    pairs = ", ".join(str(example + 1) for example in bad[:8]) + (", …" if len(bad) > 8 else "")
    way_out = "bfloat16 or float32" if model.dtype == torch.float16 else "float32 and check the model's weights for NaN"
    return NumericalError(
        f"the metric of {model.name} is not a finite number for pair {pairs} with {what}, in {model.dtype}, so "
        f"edges cannot be compared. Use {way_out}."
    )
