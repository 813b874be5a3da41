"""Automatic circuit discovery (Conmy et al. 2023, arXiv 2304.14997), exactly, on the incremental engine.

    for each reader from the logits backwards, for each writer into it from the latest to the earliest:
        cut the edge if that worsens the metric by less than τ:   L(circuit without it) − L(circuit) < τ

A tie keeps the edge. Before single edges into a layer's heads are tried, each head input is tried as a whole. (The authors'
program does this; Algorithm 1 of the paper does not.) The same holds for each neuron, expert or router of a resolved MLP.
Readers without a kept path to the logits lose their edges untested, which changes nothing.

Cost: one trial per edge into a live reader. The engine evaluates several trials at once on the assumption that edges are
cut, because most are, and discards the trials after the first kept edge. The search is greedy: of two redundant edges, the
one visited first is cut. The circuit depends on the order, on τ and on the ablation.

The other direction (``direction.py``) is the same search from the corrupted run, in the same order:

    restore the edge, so that it carries the clean run's value; gain = L(before) − L(with it restored)
        gain ≥ τ:  the edge belongs to the circuit and returns to the corrupted run's value; edges upstream of it are
                   tried through it
        gain < τ:  the edge does not belong to the circuit and stays restored

The search ends when every edge into a reader with a path to the logits through the circuit has been tried. All edges outside
the circuit then carry clean values, and each one restored on the way recovered less than τ. Of two edges either of which
suffices, it keeps both; of two that are needed together, it keeps the one that is tried last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from subcircuit.entry import entry
from subcircuit.graph import Circuit
from subcircuit.search.acdc_estimate import cost_of_cutting
from subcircuit.search.acdc_rules import ROWS_AT_ONCE, CutRules, Within
from subcircuit.search.acdc_state import PAIRS_AT_ONCE, Walk
from subcircuit.search.cost import SearchCost
from subcircuit.search.direction import ENDS, check_start, larger
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.search.memory import Footprint, changed_rows, of_engines
from subcircuit.search.method import Method
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, Progress
from subcircuit.search.result import Result, timed


@dataclass(frozen=True)
class Acdc(CutRules, Method):
    """Settings of ACDC.

    Args:
        threshold: τ, in units of the metric: an edge is cut if that worsens the metric by less.
        whole_input: first try to cut each head input, neuron, expert and router from all its writers at once.
        absolute: compare the absolute change with τ, so that edges whose cut *improves* the metric stay too.
        head_order: the order in which heads of a layer are visited and cut.
        direction: cut edges of the model, restore edges to the corrupted run, or do both and unite the circuits.
        coarse_to_fine: try groups of edges first, and single edges only in groups that stay (``acdc_rules.py``). If the effects
            of two parts of a group cancel, both are lost, so the circuit may differ from that of the direct search.
        speculation: number of circuits tried at once; None adapts it to how often edges are kept. The result is the same.
        batch_size: (circuit, example) pairs evaluated at once; None chooses by memory. The result is the same.
    """

    name = "acdc"
    description = "edges cut one by one, exactly (Conmy et al. 2023)"
    meaning = "change of the metric when the edge was tested, after all earlier cuts; not its effect alone"
    ranks = False

    def check(self, problem: Problem) -> None:
        """Raise the errors that ``search`` would raise for this problem."""
        check_start(problem.ablation.name, self.direction)

    @entry
    @torch.no_grad()
    def search(
        self, problem: Problem, progress: OnProgress | None = None, journal: Journal = FORGETFUL, within: Within | None = None
    ) -> Result:
        """Find the circuit.

        Args:
            problem: prompts, metric and ablation.
            progress: called after every batch of trials.
            journal: remembers the losses of every batch of trials.
            within: decisions made by an earlier search; None decides on every edge.

        Raises:
            SettingsError: the direction needs a corrupted run, and the ablation has none.
            NumericalError: a loss is NaN or infinite; names the edge, the prompts and the dtype.
        """
        self.check(problem)
        walks, seconds, forward_seconds = timed(problem, lambda: self._walks(problem, progress, journal, within))
        counts = [walk.borderline.count for walk in walks]
        return Result(
            circuit=Circuit(
                problem.graph, torch.stack([walk.kept for walk in walks]).any(0), larger([walk.effects for walk in walks])
            ),
            seconds=seconds,
            forward_seconds=forward_seconds,
            trials=sum(walk.trials for walk in walks),
            borderline=None if counts[0] is None else sum(count or 0 for count in counts),
        )

    def _walks(self, problem: Problem, progress: OnProgress | None, journal: Journal, within: Within | None) -> list[Walk]:
        """The finished searches, one from each end."""
        walks, ends = list[Walk](), ENDS[self.direction]
        for restoring in ends:
            walks.append(Walk(problem, self, _told(progress, walks, len(ends)), journal, restoring, within))
            walks[-1].run()
        return walks

    def cost(self, problem: Problem, patience: float = 60.0) -> SearchCost:
        """The cost, from an outline of the search and timed trials along it."""
        return cost_of_cutting(problem, self, ENDS[self.direction], patience)

    def memory(self, problem: Problem) -> Footprint:
        """Memory of all runs with their prefix sums, plus a batch of trials in which half of a layer's inputs change."""
        together, (rows, _) = self.batch_size or PAIRS_AT_ONCE, changed_rows(problem)
        readers = max(len(readers) for readers in problem.graph.without_positions.readers_in)
        in_trials = max(ROWS_AT_ONCE, 4 * max(rows) * min(together, len(problem.task)))
        trials = (readers // 2 + 8) * in_trials * problem.model.config.d_model
        return of_engines(problem, 2 * len(problem.graph.writers) + 1, together, trials, checked=True)

    def at(self, thresholds: Sequence[float]) -> "Mapping[float | None, Acdc]":
        """The same search at each of these thresholds; the method's own threshold is ignored."""
        return {threshold: replace(self, threshold=threshold) for threshold in thresholds}


def _told(on_step: OnProgress | None, before: Sequence[Walk], ends: int) -> OnProgress | None:
    """A callback for one of several searches, whose circuit so far includes those found before."""
    if on_step is None or ends == 1:
        return on_step
    masks, phase = [walk.kept for walk in before], f"acdc {len(before) + 1}/{ends}"

    def tell(step: Progress) -> None:
        so_far = step.circuit
        assert so_far is not None

        def united() -> Circuit:
            found = so_far()
            return replace(found, kept=torch.stack([found.kept, *masks]).any(0))

        on_step(replace(step, phase=phase, circuit=united))

    return tell
