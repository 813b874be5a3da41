"""Faithfulness: the share of a model's behaviour that a circuit carries.

    f(C) = (L(C) − L(∅)) / (L(M) − L(∅))            ∅: every edge cut

f is 1 if the circuit does as well as the model, and 0 if it does as badly as the empty circuit. It can exceed 1
(the circuit does better than the model) and be negative. L may be any metric, loss-like or not: signs cancel (Hanna et al.
2024, arXiv 2403.17806; Mueller et al. 2025, arXiv 2504.13151). f depends on the ablation.

If model and ∅ are nearly equal, f is a ratio of two errors. It is an error if one of these holds:
  - |L(M) − L(∅)| is within the rounding error of a loss (`Readings.rounding`);
  - the 95 % bootstrap interval over examples of the mean of L(M) − L(∅) contains 0.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.errors import SettingsError
from subcircuit.evaluate.bootstrap import Interval, bootstrap, mean
from subcircuit.evaluate.measure import Ends, Readings, measure_all
from subcircuit.graph import Circuit
from subcircuit.search import Problem
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.search.progress import ProgressCounter
from subcircuit.tasks import metric


def faithfulness(readings: Readings) -> Float[Tensor, " trial"]:
    """f of each measured circuit.

    Raises:
        SettingsError: the metric does not distinguish the model from the empty circuit.
    """
    check_gap(readings)
    empty = readings.empty.mean()
    # plus zero: an empty circuit has 0 and not -0, whatever the sign of the gap
    return (readings.circuits.mean(-1) - empty) / (readings.model.mean() - empty) + 0.0


def faithfulness_interval(readings: Readings, trial: int, *, level: float = 0.95, seed: int = 0) -> Interval | None:
    """Bootstrap interval over examples of f of one of the measured circuits; None for a single example.

    Circuit, model and ∅ are resampled together. The bounds may be far out if L(M) − L(∅) is small in some samples.

    Raises:
        SettingsError: as in `faithfulness`.
    """
    check_gap(readings)
    return bootstrap(_ratio, [readings.circuits[trial], readings.model, readings.empty], level=level, seed=seed)


def check_gap(readings: Readings) -> None:
    """Refuse a metric and prompts with which faithfulness is undefined.

    Raises:
        SettingsError: L(M) − L(∅) is within noise.
    """
    gap = float((readings.model - readings.empty).mean())
    interval = bootstrap(mean, [readings.model - readings.empty])
    if abs(gap) <= readings.rounding:
        noise = f"{readings.rounding:.2g} from rounding"
    elif interval is not None and 0.0 in interval:
        noise = f"between {interval.low:.2g} and {interval.high:.2g} on other prompts of the same kind"
    else:
        return
    raise SettingsError(
        f"faithfulness is undefined: {readings.metric.name} of the model and {readings.metric.name} with every edge cut differ by only "
        f"{gap:.2g}, which is within noise ({noise}). Use more prompts, another metric, or corrupted prompts that differ more."
    )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of a circuit and of its model, with values per example for intervals.

    Args:
        circuit: the evaluated circuit.
        metric: readings of the problem's own metric.
        kl: readings of KL(model ‖ circuit) in nats.
        match: readings of the share of answers where circuit and model rank the same token first.
        accuracy: readings of the share of answers where right tokens outrank wrong ones; None for prompts without wrong answers.
    """

    circuit: Circuit
    metric: Readings
    kl: Readings
    match: Readings
    accuracy: Readings | None

    def __repr__(self) -> str:
        means = {name: mean for name, mean in self.means.items() if mean is not None}
        ends = f"model {means['metric_model']:.4g}, every edge cut {means['metric_empty']:.4g}"
        measured = f"{self.metric.metric.name} {means['metric_circuit']:.4g} ({ends}), KL {means['kl']:.4g} nats"
        return f"Evaluation({self.circuit} on {len(self.metric.model)} examples: {measured})"

    @property
    def faithfulness(self) -> float:
        """f of the circuit.

        Raises:
            SettingsError: it is undefined.
        """
        return float(faithfulness(self.metric)[0])

    def faithfulness_interval(self, level: float = 0.95) -> Interval | None:
        """Bootstrap interval over examples of f."""
        return faithfulness_interval(self.metric, 0, level=level)

    @property
    def means(self) -> dict[str, float | None]:
        """Means over examples, each metric in its own sign; None if there are no wrong answers.

        ``accuracy_kept`` is the circuit's accuracy divided by the model's; None if the model is never right.
        """
        measured = self.metric.metric
        accuracy = None if self.accuracy is None else self.accuracy.metric.mean(self.accuracy.circuits[0])
        accuracy_model = None if self.accuracy is None else self.accuracy.metric.mean(self.accuracy.model)
        return {
            "metric_circuit": measured.mean(self.metric.circuits[0]),
            "metric_model": measured.mean(self.metric.model),
            "metric_empty": measured.mean(self.metric.empty),
            "kl": self.kl.metric.mean(self.kl.circuits[0]),
            "match": self.match.metric.mean(self.match.circuits[0]),
            "accuracy": accuracy,
            "accuracy_model": accuracy_model,
            "accuracy_kept": accuracy / accuracy_model if accuracy is not None and accuracy_model else None,
        }


@entry
def evaluate_circuit(
    problem: Problem,
    circuit: Circuit,
    batch_size: int = 16,
    journal: Journal = FORGETFUL,
    rounds: ProgressCounter | None = None,
    ends: Ends | None = None,
) -> Evaluation:
    """Measure a circuit on a problem, preferably on prompts outside its search.

    Args:
        problem: prompts, metric and ablation.
        batch_size: number of prompts per batch.
        journal: stores the losses of every batch of prompts.
        rounds, ends: as in `measure_all`.

    Raises:
        GraphError, SettingsError, NumericalError: as in `measure_all`.
    """
    contrasts = problem.task.answers.contrasts
    asked = (problem.metric, metric("kl_divergence"), metric("match"), *([metric("accuracy")] if contrasts else []))
    readings = measure_all(problem, [circuit], asked, batch_size, journal, ends, rounds)
    return Evaluation(circuit, readings[0], readings[1], readings[2], readings[3] if contrasts else None)


def _ratio(circuit: Any, model: Any, empty: Any, axis: int = -1) -> Any:
    bottom = mean(empty, axis)
    return (mean(circuit, axis) - bottom) / (mean(model, axis) - bottom) + 0.0
