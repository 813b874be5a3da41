"""Metric, KL and faithfulness of a ranking's prefixes: what a threshold costs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from subcircuit.errors import SettingsError
from subcircuit.evaluate import faithfulness, measure_all
from subcircuit.evaluate.measure import Ends
from subcircuit.graph import Circuit
from subcircuit.report.page.packed import Json, finite
from subcircuit.report.page.ranking import Ranking
from subcircuit.search import Problem
from subcircuit.search.attribution import Rounds
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.tasks import metric

POINTS = 12


@dataclass(frozen=True, eq=False)
class Pace:
    """In which steps sizes are measured: as `measure_all` takes them.

    Args:
        batch_size: prompts that run together: a step.
        journal: told of every step.
        ends: what was run of model and empty circuit, for the next size.
    """

    batch_size: int = 16
    journal: Journal = FORGETFUL
    ends: Ends = field(default_factory=dict)


def sizes(count: int, points: int = POINTS) -> list[int]:
    """About so many numbers of edges between 1 and ``count``, both included, evenly spaced on a logarithmic axis."""
    if count == 0:
        return [0]
    steps = max(1, points - 1)
    return sorted({round(count ** (step / steps)) for step in range(steps + 1)} | {count})


def ladder(ranking: Ranking, kept_only: bool, points: int = POINTS) -> list[int]:
    """Sizes of about so many circuits of a ranking, from the smallest to the largest."""
    return sorted({ranking.nearest(size, kept_only) for size in sizes(ranking.count(kept_only), points)})


def measured_document(
    problem: Problem,
    ranking: Ranking,
    counts: Sequence[int],
    kept_only: bool,
    pace: Pace | None = None,
    rounds: Rounds | None = None,
) -> Json:
    """The largest circuits of at most so many edges, measured on the page's prompts.

    Args:
        counts: numbers of edges.
        kept_only: count the circuit's edges alone, or all that are listed.
        pace: in which steps; None for the steps of `measure_all`.
        rounds: as in `measure_all`.

    Raises:
        GraphError: the circuit is of another model.
        NumericalError: a loss is NaN or infinite.
    """
    graph = problem.graph
    circuits = [Circuit(graph, ranking.mask(graph, count, kept_only)) for count in counts]
    metrics = problem.metric, metric("kl_divergence")
    pace = Pace() if pace is None else pace
    readings, divergences = measure_all(problem, circuits, metrics, pace.batch_size, pace.journal, pace.ends, rounds)
    value = readings.metric.value
    try:
        faithful, why = [finite(f) for f in faithfulness(readings).tolist()], None
    except SettingsError as error:
        faithful, why = [None] * len(counts), str(error)
    values, kls = value(readings.circuits.mean(-1)).tolist(), divergences.circuits.mean(-1).tolist()
    return {
        "metric": problem.metric.name,
        "model": finite(float(value(readings.model.mean()))),
        "empty": finite(float(value(readings.empty.mean()))),
        "why": why,
        "points": [
            {"edges": count, "metric": finite(m), "kl": finite(kl), "faithfulness": f}
            for count, m, kl, f in zip(counts, values, kls, faithful, strict=True)
        ],
    }
