"""The exact engine over all examples of a problem: one engine per batch of examples, losses joined.

Examples do not interact inside a transformer, so batches are independent: a loss is the float64 mean over all examples, whatever
the batches are. ``bind`` ties a metric to the answers of each batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.engine.ablation import ablated_by_batch
from subcircuit.engine.cache import clean_run
from subcircuit.engine.exact import Engine, Visit
from subcircuit.engine.memory import in_parts
from subcircuit.engine.readout import BoundMetric, read
from subcircuit.model.components import unembed
from subcircuit.search.problem import Problem
from subcircuit.tasks import Answers, Metric, with_positions

Stream: TypeAlias = Callable[[Engine], Float[Tensor, "answer d_model"]]


def after_each_other(first: Tensor, second: Tensor) -> Tensor:
    """The concatenated results of two groups of trials."""
    return torch.cat([first, second])


@dataclass(frozen=True, eq=False)
class Batches:
    """Engines in the same state, one per batch of examples."""

    engines: tuple[Engine, ...]
    answers: tuple[Answers, ...]

    @staticmethod
    def start(problem: Problem, batch_size: int, order: tuple[int, ...] | None = None, restoring: bool = False) -> "Batches":
        """Engines after a run of the clean and ablated prompts, with no unit opened and no edge cut.

        Args:
            batch_size: examples per engine.
            order: order of cutting, see ``CleanRun``.
            restoring: exchange the two runs: the engines run corrupted prompts, cut edges carry clean values, and losses are
                negated. Only for resample ablation (``direction.py``).
        """
        model, graph = problem.model, problem.graph
        task, first_changes = with_positions(graph, problem.task), problem.first_changes()
        start, other = (task.corrupted, task.clean) if restoring else (task.clean, task.corrupted)
        ablated = ablated_by_batch(model, graph, other, problem.ablation)

        def some(within: range) -> Batches:
            examples = slice(within.start, within.stop)
            asked = task[examples].answers
            run = clean_run(
                model,
                graph,
                start[examples],
                ablated(other[examples], within.start),
                first_changes[examples],
                asked.example,
                asked.pos,
                order,
            )
            of_model = run.ablated_stream() if restoring else run.model_stream()
            reference = unembed(model.config, model.weights, of_model) if problem.metric.compares else None
            bound = problem.metric.bind(asked, reference)
            return Batches((Engine.start(run, replace(bound, sign=-bound.sign) if restoring else bound),), (asked,))

        begins = range(0, len(task), batch_size)
        parts = [in_parts(some, range(begin, min(begin + batch_size, len(task))), Batches.and_) for begin in begins]
        return reduce(Batches.and_, parts)

    def and_(self, others: "Batches") -> "Batches":
        """These engines followed by others."""
        return Batches(self.engines + others.engines, self.answers + others.answers)

    @property
    def first(self) -> Engine:
        """Any of the engines: they agree on everything but numbers."""
        return self.engines[0]

    @property
    def kept(self) -> Bool[Tensor, "writer reader"]:
        """Edges kept so far."""
        return self.first.kept

    def map(self, step: Callable[[Engine], Engine]) -> "Batches":
        """The engines after the same step in each."""
        return Batches(tuple(step(engine) for engine in self.engines), self.answers)

    @torch.no_grad()
    def at(self, kept: Bool[Tensor, "writer reader"]) -> "Batches":
        """The engines in the state of a circuit."""
        return self.map(lambda engine: engine.restore(kept.clone(), 0))

    def losses(self, measure: Callable[[int, Engine], Float[Tensor, "*trial answer"]]) -> Float[Tensor, "*trial batch"]:
        """Per-example losses over all batches; ``measure`` gets each engine with its number."""
        parts = [a.per_example(measure(i, e)) for i, (e, a) in enumerate(zip(self.engines, self.answers, strict=True))]
        return torch.cat(parts, -1)

    def loss(self) -> Float[Tensor, " batch"]:
        """Per-example loss of the circuit as committed."""
        return self.losses(lambda _, engine: engine.loss())

    def visit(self, reader: int, writers: frozenset[int] | None = None) -> tuple[Visit, ...]:
        """Visits to a reader, one per batch, to decide on its edges from some writers or from all."""
        return tuple(engine.visit(reader, writers) for engine in self.engines)

    def decide(self, visits: Sequence[Visit], cut: int, keep: bool) -> tuple[Visit, ...]:
        """``Engine.decide`` in every batch."""
        return tuple(e.decide(v, cut, keep) for e, v in zip(self.engines, visits, strict=True))

    def try_edges(self, visits: Sequence[Visit], counts: Sequence[int]) -> Float[Tensor, "trial batch"]:
        """``Engine.try_edges`` over all examples, in parts where memory does not suffice."""

        def some(trials: range) -> Float[Tensor, "trial batch"]:
            return self.losses(lambda i, engine: engine.try_edges(visits[i], counts[trials.start : trials.stop]))

        return in_parts(some, range(len(counts)), after_each_other)

    def try_readers(self, groups: Sequence[Sequence[int]]) -> Float[Tensor, "trial batch"]:
        """``Engine.try_readers`` over all examples, in parts where memory does not suffice."""

        def some(part: range) -> Float[Tensor, "trial batch"]:
            at = self if part.start == 0 else self._without([r for group in groups[: part.start] for r in group])
            return at.losses(lambda _, engine: engine.try_readers(groups[part.start : part.stop]))

        return in_parts(some, range(len(groups)), after_each_other)

    def _without(self, readers: Sequence[int]) -> "Batches":
        """The engines after cutting these readers from all their writers."""
        kept = self.kept.clone()
        kept[:, list(readers)] = False
        return self.map(lambda engine: engine.commit(kept, readers))


def bind(batches: Batches, measured: Metric) -> tuple[BoundMetric, ...]:
    """The metric tied to each batch's answers, and to the model's logits there if it compares with them."""

    def one(engine: Engine, answers: Answers) -> BoundMetric:
        model = engine.run.model
        reference = unembed(model.config, model.weights, engine.run.model_stream()) if measured.compares else None
        return measured.bind(answers, reference)

    return tuple(one(engine, answers) for engine, answers in zip(batches.engines, batches.answers, strict=True))


def losses_at(batches: Batches, bound: Sequence[BoundMetric], stream: Stream) -> Float[Tensor, " batch"]:
    """Per-example losses at a stream of every batch's run: the model's, the circuit's, or that with every edge cut."""
    return batches.losses(lambda i, engine: bound[i](read(engine.run.model, stream(engine), bound[i].needs)))
