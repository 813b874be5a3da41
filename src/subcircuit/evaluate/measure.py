"""The losses of circuits per example, with those of the model and of the empty circuit.

    L(C) = mean over examples of m(logits of C on the clean prompts)

m is the loss-like form of a metric. Model (every edge kept) and empty circuit (every edge cut) go through the same masked
forward pass as any other circuit, so that a circuit equal to one of them has exactly its loss. Cost: one masked forward
pass per circuit, about three plain ones, and two more for model and empty circuit. Memory grows with ``batch_size``; results change
with it only by rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.engine import ablated_by_batch, last_stream
from subcircuit.entry import entry
from subcircuit.errors import GraphError, NumericalError, SettingsError
from subcircuit.graph import Circuit, Graph
from subcircuit.model.components import unembed
from subcircuit.model.transformer import Transformer
from subcircuit.search import Problem
from subcircuit.search.borderline import rounding
from subcircuit.search.journal import FORGETFUL, Journal, each
from subcircuit.search.progress import ProgressCounter
from subcircuit.tasks import Metric, Task, check_same_vocabulary, with_positions
from subcircuit.tasks.metrics import example_losses

_SHOWN = 8  # number of circuits whose means a representation shows
Stream: TypeAlias = Callable[[Bool[Tensor, "writer reader"]], Float[Tensor, "answer d_model"]]
# last streams of the model and of the circuit without edges, by the first prompt of a batch
Ends: TypeAlias = dict[int, tuple[Float[Tensor, "answer d_model"], Float[Tensor, "answer d_model"]]]


@dataclass(frozen=True, eq=False)
class Readings:
    """Values of one metric per example in loss-like form: larger means a worse circuit.

    Args:
        metric: the metric.
        model: values with every edge kept.
        empty: values with every edge cut.
        circuits: one row per circuit, in the given order.
        rounding: bound on the rounding error of a loss.
    """

    metric: Metric
    model: Float[Tensor, " batch"]
    empty: Float[Tensor, " batch"]
    circuits: Float[Tensor, "trial batch"]
    rounding: float

    def __repr__(self) -> str:
        mean = self.metric.mean
        ends = f"model {mean(self.model):.4g}, every edge cut {mean(self.empty):.4g}"
        shown = ", ".join(f"{mean(losses):.4g}" for losses in self.circuits[:_SHOWN])
        more = f", and {len(self.circuits) - _SHOWN:,} more" if len(self.circuits) > _SHOWN else ""
        return f"Readings({self.metric.name} on {len(self.model)} examples: {ends}, circuits {shown or 'none'}{more})"


@entry
def measure(
    problem: Problem,
    circuits: Sequence[Circuit],
    batch_size: int = 16,
    journal: Journal = FORGETFUL,
    rounds: ProgressCounter | None = None,
    ends: Ends | None = None,
) -> Readings:
    """`measure_all` for the problem's own metric."""
    (readings,) = measure_all(problem, circuits, (problem.metric,), batch_size, journal, ends, rounds)
    return readings


@entry
@torch.no_grad()
def measure_all(
    problem: Problem,
    circuits: Sequence[Circuit],
    metrics: Sequence[Metric],
    batch_size: int = 16,
    journal: Journal = FORGETFUL,
    ends: Ends | None = None,
    rounds: ProgressCounter | None = None,
) -> tuple[Readings, ...]:
    """Measure circuits with several metrics at the cost of one.

    Args:
        problem: prompts and ablation; its metric is measured only if it is among ``metrics``.
        circuits: of ``graph``.
        batch_size: number of prompts per batch.
        journal: stores the losses of every batch of prompts.
        ends: cache of the runs of model and empty circuit, for later calls with the same model, graph, prompts, ablation and batch
            size.
        rounds: called after every run of every prompt, ``runs_of`` times.

    Returns:
        Readings in the order of ``metrics``.

    Raises:
        GraphError: a circuit is of another graph than the problem's.
        PromptError: the prompts were made for a model with another tokenizer.
        SettingsError: the batch size is not positive, or a metric needs wrong answers that the task does not have.
        NumericalError: a loss is NaN or infinite.
    """
    model, graph = problem.model, problem.graph
    _check(graph, circuits, batch_size)
    for circuit in circuits:
        check_same_vocabulary(circuit, problem.task)
    masks = [graph.edges, torch.zeros_like(graph.edges), *(circuit.kept for circuit in circuits)]
    task = with_positions(graph, problem.task.to(model.device))
    ablated = ablated_by_batch(model, graph, task.corrupted, problem.ablation)
    told = rounds or ProgressCounter(runs_of(len(task), len(circuits)), None)
    what = sha256(b"".join(mask.cpu().numpy().tobytes() for mask in masks)).hexdigest()[:32]
    what = f"losses/{what}/{', '.join(metric.name for metric in metrics)}"
    known: Ends = {} if ends is None else ends

    def losses(start: int) -> Float[Tensor, "metric trial batch"]:
        part = task[start : start + batch_size]
        stream = _stream(model, graph, part, ablated(part.corrupted, start))
        if start not in known:
            known[start] = stream(masks[0]), stream(masks[1])
        return torch.stack(_losses(model, stream, known[start], masks, part, metrics, told))

    done_before = told.finished
    units = [(f"{what}/examples {start} to {start + batch_size}", start) for start in range(0, len(task), batch_size)]
    # losses are float64, which some accelerators do not support
    parts: list[Tensor] = []
    for (_, start), part in zip(units, each(journal, units, losses), strict=True):
        parts.append(part.cpu())
        # recalled work, or work of another process, counts as done
        told.reach(done_before + min(start + batch_size, len(task)) * len(masks))
    joined = torch.cat(parts, -1)
    return tuple(_readings(metric, losses, model.dtype) for metric, losses in zip(metrics, joined, strict=True))


def runs_of(examples: int, circuits: int) -> int:
    """Number of runs per prompt of a measurement: one per circuit, and two for model and empty circuit."""
    return examples * (circuits + 2)


def _check(graph: Graph, circuits: Sequence[Circuit], batch_size: int) -> None:
    for circuit in circuits:
        if circuit.graph != graph:
            raise GraphError(
                f"circuits of different graphs cannot be measured together; they differ in {graph.unlike(circuit.graph)}"
            )
    if batch_size < 1:
        raise SettingsError(f"batch_size is {batch_size}: it must be at least 1")


def _stream(model: Transformer, graph: Graph, part: Task, ablated: Float[Tensor, "writer batch pos d_model"]) -> Stream:
    return lambda kept: part.answers.rows(last_stream(model, graph, kept, part.clean, ablated))


def _losses(
    model: Transformer,
    stream: Stream,
    ends: tuple[Float[Tensor, "answer d_model"], Float[Tensor, "answer d_model"]],
    masks: Sequence[Bool[Tensor, "writer reader"]],
    part: Task,
    metrics: Sequence[Metric],
    rounds: ProgressCounter,
) -> list[Float[Tensor, "trial batch"]]:
    """Losses of one batch by metric; the first two masks are those of the model and the empty circuit, whose streams are ``ends``."""
    compares = any(metric.compares for metric in metrics)
    reference = unembed(model.config, model.weights, ends[0]) if compares else None
    bound = [metric.bind(part.answers, reference) for metric in metrics]
    rows: list[list[Tensor]] = [[] for _ in metrics]
    for index, mask in enumerate(masks):
        # the circuits of all edges and of no edge have already run
        same = [end for end in range(min(index, 2)) if torch.equal(mask, masks[end])]
        if same:
            losses = [row[same[0]] for row in rows]
        else:
            last = ends[index] if index < 2 else stream(mask)
            losses = [example_losses(model, part.answers, measured, last) for measured in bound]
        for row, loss in zip(rows, losses, strict=True):
            row.append(loss)
        rounds.done(len(part))
    return [torch.stack(row) for row in rows]


def _readings(metric: Metric, losses: Float[Tensor, "trial batch"], dtype: torch.dtype) -> Readings:
    if not losses.isfinite().all():
        trial, example = (~losses.isfinite()).nonzero()[0].tolist()
        which = ("the whole model", "the circuit without edges")[trial] if trial < 2 else f"circuit {trial - 1}"
        value = float(losses[trial, example])
        raise NumericalError(f"{metric.name} of {which} is {value} on pair {example + 1} in {dtype}: load the model in float32")
    size = float(losses[:2].abs().mean(-1).max())
    return Readings(metric, losses[0], losses[1], losses[2:], rounding(dtype, size))
