"""What a finished circuit does: its metric beside the model's, and the two measures every reader asks for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.exact import Engine
from subcircuit.engine.readout import BoundMetric, read
from subcircuit.model.components import unembed
from subcircuit.search.batches import Batches
from subcircuit.search.problem import Problem
from subcircuit.tasks import Answers, Metric, metric

Stream: TypeAlias = Callable[[Engine], Float[Tensor, "answer d_model"]]


@dataclass(frozen=True)
class Values:
    """Means over all examples; see ``Discovery``."""

    metric_model: float
    metric_circuit: float
    metric_corrupted: float
    kl_circuit: float
    logit_difference_model: float | None
    logit_difference_circuit: float | None
    logit_difference_corrupted: float | None


def measure_circuit(batches: Batches, problem: Problem) -> Values:
    """Measure the committed circuit, the whole model and the circuit without edges."""
    contrasts = bool(problem.task.answers.wrong_mask.any(-1).all())
    difference = metric("logit_difference")
    return Values(
        metric_model=_mean(batches, problem.metric, lambda e: e.run.model_stream()),
        metric_circuit=_mean(batches, problem.metric, Engine.circuit_stream),
        metric_corrupted=_mean(batches, problem.metric, lambda e: e.run.ablated_stream()),
        kl_circuit=_mean(batches, metric("kl_divergence"), Engine.circuit_stream),
        logit_difference_model=_mean(batches, difference, lambda e: e.run.model_stream()) if contrasts else None,
        logit_difference_circuit=_mean(batches, difference, Engine.circuit_stream) if contrasts else None,
        logit_difference_corrupted=_mean(batches, difference, lambda e: e.run.ablated_stream()) if contrasts else None,
    )


def _mean(batches: Batches, measured: Metric, stream: Stream) -> float:
    return float(measured.value(losses_at(batches, bind(batches, measured), stream).mean()))


def bind(batches: Batches, measured: Metric) -> tuple[BoundMetric, ...]:
    """A metric tied to the answers of every batch, and to the model's logits there where it compares with them."""

    def one(engine: Engine, answers: Answers) -> BoundMetric:
        model = engine.run.model
        reference = unembed(model.config, model.weights, engine.run.model_stream()) if measured.compares else None
        return measured.bind(answers, reference)

    return tuple(one(engine, answers) for engine, answers in zip(batches.engines, batches.answers, strict=True))


def losses_at(batches: Batches, bound: Sequence[BoundMetric], stream: Stream) -> Float[Tensor, " batch"]:
    """Per-example losses at a stream of every batch's run: the model's, the circuit's, or that with every edge cut."""
    return batches.losses(lambda i, engine: bound[i](read(engine.run.model, stream(engine), bound[i].needs)))
