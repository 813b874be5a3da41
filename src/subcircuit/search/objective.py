"""The loss of a refinement, which measures how far a circuit is from the model, and its value for any circuit on some prompts.

The loss is computed per example and in both directions:

    J(C) = mean_i F_i + mean_i K_i
    F_i  = (m_i(C) − m_i(M))² / mean_j (m_j(M) − m_j(∅))²          m: the task's metric, ∅: every edge cut
    K_i  = KL(p_M ‖ p_C) / mean_j KL(p_M ‖ p_∅)                    at the answers of example i

Both terms are 0 for the model and 1 for the circuit without edges, so that they count alike whatever the metric's scale. F is
two-sided, so that a circuit gains nothing by beating the model, and it is taken per example, so that one example does not make
up for another. F alone leaves the rest of the distribution free. KL alone overshoots: a circuit of indirect object
identification in SmolLM2 reached 1.35 times the model's logit difference. The default is their sum.

A ``Panel`` measures the loss, faithfulness and KL of any circuit. The circuit is restored from the cached clean run: only its own
nodes are computed, at the rows where they can change and matter, so that a circuit of some hundred edges costs a fraction of a plain
forward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from math import sqrt
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.engine.exact import Engine
from subcircuit.engine.memory import in_parts
from subcircuit.engine.readout import BoundMetric, Needs, Readout, readout_of
from subcircuit.errors import SettingsError
from subcircuit.graph import Standing
from subcircuit.search.batches import Batches, after_each_other, bind, losses_at
from subcircuit.search.borderline import rounding
from subcircuit.search.problem import Problem
from subcircuit.tasks import Answers, Metric, metric
from subcircuit.tasks.metrics import Measure, Reference

Terms: TypeAlias = Literal["both", "faithfulness", "kl"]


@dataclass(frozen=True)
class Units:
    """Units of the loss's two terms, measured on the search prompts.

    Args:
        gap: mean over examples of (m(M) − m(∅))².
        kl: mean KL(M ‖ ∅) in nats.
    """

    gap: float
    kl: float


def check_terms(terms: str) -> None:
    """Check that the terms of the loss exist.

    Raises:
        SettingsError: they do not.
    """
    if terms not in get_args(Terms):
        raise SettingsError(f"loss is {terms!r}: choose {', '.join(get_args(Terms))}")


def objective(measured: Metric, units: Units, terms: Terms = "both") -> Metric:
    """J as a metric, so that all code that measures circuits can measure J.

    Args:
        measured: the task's metric.
        units: of both terms.
        terms: which of the two terms count.
    """
    return Metric(
        f"refinement loss ({terms})",
        "squared distance of the metric from the model's, and KL divergence",
        "lower",
        partial(_loss, measured, units, terms),
        compares=True,
        contrasts=measured.contrasts,
        differentiable=measured.differentiable or terms == "kl",
    )


def _loss(measured: Metric, units: Units, terms: Terms, answers: Answers, reference: Reference) -> tuple[Needs, Measure]:
    assert reference is not None
    own, kl = measured.bind(answers, reference), metric("kl_divergence").bind(answers, reference)
    of_model = answers.per_example(own(readout_of(reference, own.needs)))

    def measure(readout: Readout) -> Float[Tensor, "*trial answer"]:
        zero = torch.zeros((), dtype=torch.float64, device=of_model.device)
        squares = zero
        if terms != "kl":
            squares = ((answers.per_example(own(readout)) - of_model).square() / units.gap)[..., answers.example]
        return squares + (zero if terms == "faithfulness" else kl(readout) / units.kl)

    return _both(own.needs if terms != "kl" else Needs(), kl.needs if terms != "faithfulness" else Needs()), measure


def _both(a: Needs, b: Needs) -> Needs:
    """The union of two sets of readouts; metrics that compare with the model share the same mixture."""
    columns = a.columns if a.columns is not None else b.columns
    mixture = a.mixture if a.mixture is not None else b.mixture
    return Needs(columns, a.normalizer or b.normalizer, mixture, a.logits or b.logits)


# rows of matrix products: enough for efficient products, few enough to stay in memory
_ROWS_AT_ONCE = 4096
_EXAMPLES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Panel:
    """Prompts on which circuits are measured.

    Args:
        problem: the prompts, the task's own metric and the ablation.
        loss: the refinement loss as a metric.
        batches: engines of the whole model under the loss.
        ends: the metric's mean loss-like value for the model, and with every edge cut.
        units: of the loss's terms.
    """

    problem: Problem
    loss: Problem
    batches: Batches
    ends: tuple[float, float]
    units: Units

    @staticmethod
    @torch.no_grad()
    def of(problem: Problem, terms: Terms, units: Units | None = None) -> "Panel":
        """A panel after a run of the clean and ablated prompts.

        Args:
            terms: terms of the loss.
            units: units of the terms; None measures them on these prompts.

        Raises:
            SettingsError: the metric has the same value for the model and for the circuit without edges.
        """
        model = problem.model
        batches = Batches.start(problem, min(_EXAMPLES_AT_ONCE, len(problem.task)))
        bound = bind(batches, problem.metric)
        own = losses_at(batches, bound, lambda engine: engine.run.model_stream())
        empty = losses_at(batches, bound, lambda engine: engine.run.ablated_stream())
        ends = float(own.mean()), float(empty.mean())
        if abs(ends[0] - ends[1]) <= rounding(model.dtype, max(map(abs, ends))):
            raise SettingsError(
                f"{problem.metric.name} of the model and {problem.metric.name} with every edge cut are the same ({ends[0]:.3g}), so faithfulness "
                "is undefined. Use another metric, or corrupted prompts that differ more."
            )
        if units is None:
            apart = losses_at(batches, bind(batches, metric("kl_divergence")), lambda engine: engine.run.ablated_stream())
            units = Units(float((own - empty).square().mean()), float(apart.mean()))
        loss = replace(problem, metric=objective(problem.metric, units, terms), validation=None)
        return Panel(problem, loss, _bound(batches, loss), ends, units)

    @cached_property
    def _measures(self) -> tuple[tuple[BoundMetric, ...], tuple[BoundMetric, ...]]:
        """The task's metric and the KL divergence, bound in every batch."""
        return bind(self.batches, self.problem.metric), bind(self.batches, metric("kl_divergence"))

    @torch.no_grad()
    def standing(self, kept: Bool[Tensor, "writer reader"]) -> Standing:
        """The measurements of a circuit."""
        at = self.batches.at(kept)
        own, kl = (float(losses_at(at, bound, Engine.circuit_stream).mean()) for bound in self._measures)
        model, empty = self.ends
        return Standing(float(at.loss().mean()), (own - empty) / (model - empty), kl)

    @torch.no_grad()
    def losses_of(self, kept: Bool[Tensor, "writer reader"]) -> Float[Tensor, " batch"]:
        """The loss of a circuit on each prompt."""
        return self.batches.at(kept).loss()


@torch.no_grad()
def without_each(at: Batches, column: int, writers: Sequence[int]) -> Float[Tensor, "trial batch"]:
    """Losses of a circuit without each of these edges into a reader, one edge at a time.

    Args:
        at: the engines in the circuit's state.
    """
    rows = max(len(engine.run.rows.changed.flat) for engine in at.engines)
    size = max(1, _ROWS_AT_ONCE // rows)

    def losses(some: range) -> Float[Tensor, "trial batch"]:
        return at.losses(lambda _, engine: engine.try_each(column, writers[some.start : some.stop]))

    starts = range(0, len(writers), size)
    parts = [in_parts(losses, range(start, min(start + size, len(writers))), after_each_other) for start in starts]
    return torch.cat(parts)


@torch.no_grad()
def grown(at: Batches, kept: Bool[Tensor, "writer reader"]) -> Batches:
    """Engines in the state of a circuit with more edges. Only nodes downstream of these run, unless the edges open new nodes.

    Args:
        at: the engines in the state of the smaller circuit.
        kept: the larger one.
    """
    added = (kept & ~at.kept).nonzero().tolist()
    if all(at.first.joins(row, column) for row, column in added):
        readers = sorted({column for _, column in added})
        return at.map(lambda engine: engine.commit(kept, readers))
    return at.at(kept)


def at_most(change: Float[Tensor, " batch"]) -> float:
    """The mean over prompts plus one standard error: a bound that similar prompts will rarely exceed."""
    spread = float(change.std()) if len(change) > 1 else 0.0
    return float(change.mean()) + spread / sqrt(len(change))


def digest(kept: Bool[Tensor, "writer reader"]) -> str:
    """Names a circuit among those of its graph."""
    return sha256(str(kept.flatten().nonzero().flatten().tolist()).encode()).hexdigest()[:32]


def _bound(batches: Batches, loss: Problem) -> Batches:
    """The same engines under another metric."""
    bound = iter(bind(batches, loss.metric))
    return batches.map(lambda engine: Engine(engine.live, next(bound)))
