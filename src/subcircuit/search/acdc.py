"""Automatic circuit discovery (Conmy et al. 2023, arXiv 2304.14997), exactly, on the incremental engine.

    for each reader from the logits backwards, for each writer into it from the latest to the earliest:
        cut the edge if that worsens the metric by less than τ:   L(circuit without it) − L(circuit) < τ

A tie keeps the edge. Before the edges into a layer's heads are tried one by one, each head input is tried as a whole
(the authors' program; Algorithm 1 of the paper does without), and so is each neuron, expert or
router of an MLP that is resolved. Readers without a kept path to the logits lose their edges untested, which changes nothing.

Cost: a trial per edge into a live reader; the engine evaluates runs of trials at once on the bet that edges are cut,
which most are, and drops what comes after the first kept one. It is greedy: of two edges that can stand in for each
other the one visited first goes, and what is found depends on the order, on τ and on the ablation.

The other direction (``direction.py``) is the same search from the corrupted run, in the same order:

    restore the edge, so that it carries the clean run's value; gain = L(before) − L(with it restored)
    gain ≥ τ:  the edge belongs to the circuit, and is put back to the corrupted run's value: what lies upstream of it is
               tried through it
    gain < τ:  it does not, and stays restored

It ends when every edge into a reader that reaches the logits through the circuit has been tried: all edges but the circuit's
then carry clean values, and each restored along the way brought back less than τ. Of two edges either of which is enough it
keeps both, and of two that are needed together the one that is tried last.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from time import perf_counter

import torch
from jaxtyping import Bool
from torch import Tensor

from subcircuit.engine.ablation import name_of
from subcircuit.entry import entry
from subcircuit.graph import Circuit
from subcircuit.search.batches import Batches
from subcircuit.search.direction import ENDS, check_start, larger
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.search.outcome import measure_circuit
from subcircuit.search.problem import Problem
from subcircuit.search.result import Discovery, OnStep, Step
from subcircuit.search.rules import Acdc, Within
from subcircuit.search.scores import time_forward
from subcircuit.search.walk import PAIRS_AT_ONCE, Walk


@entry
@torch.no_grad()
def acdc(
    problem: Problem, config: Acdc, on_step: OnStep | None = None, journal: Journal = FORGETFUL, within: Within | None = None
) -> Discovery:
    """Find the circuit.

    Args:
        problem: prompts, metric and ablation.
        config: threshold and variants.
        on_step: called after every batch of trials.
        journal: remembers the losses of every batch of trials.
        within: what is decided before; None decides on every edge.

    Raises:
        SettingsError: a direction that needs a corrupted run, and an ablation that has none.
        NumericalError: a loss is NaN or infinite; names the edge, the prompts and the dtype.
    """
    graph = problem.graph
    check_start(name_of(problem.ablation), config.direction)
    forward_seconds = time_forward(problem)
    began = perf_counter()
    searches: list[Walk] = []
    for restoring in ENDS[config.direction]:
        searches.append(Walk(problem, config, _told(on_step, searches, config), journal, restoring, within))
        searches[-1].run()
    seconds = perf_counter() - began
    # before and after: on a shared machine the speed of one moment is not that of the next
    forward_seconds = median(forward_seconds + time_forward(problem))
    kept = torch.stack([search.kept for search in searches]).any(0)
    return Discovery(
        circuit=Circuit(graph, kept, larger([search.effects for search in searches])),
        metric=problem.metric.name,
        trials=sum(search.trials for search in searches),
        borderline=None if searches[0].borderline.count is None else sum(search.borderline.count or 0 for search in searches),
        notes={},
        seconds=seconds,
        forward_seconds=forward_seconds,
        **vars(measure_circuit(_standing(searches[0], kept), problem)),
    )


def _told(on_step: OnStep | None, before: Sequence[Walk], config: Acdc) -> OnStep:
    """The callback, told of one search after others as of one."""
    if on_step is None:
        return lambda step: None
    done, trials, seconds, work = (
        sum(getattr(search, name) for search in before) for name in ("decided", "trials", "seconds", "work")
    )
    ended, ends = len(before), len(ENDS[config.direction])
    masks = [search.kept for search in before]
    kept = sum(int(mask.sum()) for mask in masks)

    def both(found: Circuit) -> Circuit:
        return replace(found, kept=torch.stack([found.kept, *masks]).any(0))

    def tell(step: Step) -> None:
        edges, share = step.edges * ends, (step.share + ended) / ends
        total = replace(step, decided=step.decided + done, kept=step.kept + kept, trials=step.trials + trials)
        total = replace(total, seconds=step.seconds + seconds, share=share, work=step.work + work)
        on_step(replace(total, edges=edges, circuit=lambda: both(step.circuit())))

    return tell


def _standing(search: Walk, kept: Bool[Tensor, "writer reader"]) -> Batches:
    """The circuit on clean prompts, all other edges cut: the same bits, however it was found and in whatever batches."""
    examples = min(PAIRS_AT_ONCE, len(search.problem.task))
    return search.start(False, examples).map(lambda engine: engine.restore(kept, 0))
