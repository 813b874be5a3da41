"""Faithfulness against size: one curve for a whole ranking of edges (MIB, Mueller et al. 2025, arXiv 2504.13151).

At each of ten sizes k the circuit has the ⌊k · edges⌋ edges of highest score, without edges on no path from an embedding to the logits,
and its faithfulness f(k) is measured. With k the share of all edges,

    CPR = ∫ f(k) dk            CMD = ∫ |1 − f(k)| dk            trapezoids from k = 0.001 to 1

A ranking that finds circuits as good as the model at every size has CPR 0.999 (the axis begins at 0.001, as there) and
CMD 0. CPR rewards circuits that do better than the model, CMD does not. On the linear axis half of the area is above
50 % of the edges; ``*_log`` are means over log k, which give every size the same weight: 1 and 0 are perfect.

Edges are ranked by score (``signed``; MIB's command line does this) or by its size (``absolute``), ties as `select_edges`
breaks them. Pruning changes nothing under resample ablation; under other ablations a node without inputs still has an output.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor, log

from jaxtyping import Float
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.evaluate.bootstrap import Interval
from subcircuit.evaluate.faithfulness import faithfulness, faithfulness_interval
from subcircuit.evaluate.measure import Ends, measure_all
from subcircuit.graph import By, Circuit, TopN, select_edges
from subcircuit.search import Problem
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.search.progress import ProgressCounter
from subcircuit.tasks import metric

PERCENTAGES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


@dataclass(frozen=True)
class CurvePoint:
    """One size.

    Args:
        percent: of the graph's edges.
        edges: number of selected edges, rounded down.
        kept: number of these on a path from an embedding to the logits.
        faithfulness: f of the circuit.
        interval: interval of f, by bootstrap over examples.
        kl: mean KL(model ‖ circuit) in nats.
    """

    percent: float
    edges: int
    kept: int
    faithfulness: float
    interval: Interval | None
    kl: float


@dataclass(frozen=True)
class Curve:
    """Faithfulness at several sizes, and its areas.

    Args:
        by: ranking of the scores, by value or by size.
        points: by ascending size, at least two.
    """

    by: By
    points: tuple[CurvePoint, ...]

    def __repr__(self) -> str:
        return f"Curve({len(self.points)} sizes by {self.by} score: CPR {self.cpr:.3f}, CMD {self.cmd:.3f})"

    @property
    def cpr(self) -> float:
        """Area under f over the share of edges."""
        return self._area(lambda f: f, lambda k: k)

    @property
    def cmd(self) -> float:
        """Area between f and 1 over the share of edges."""
        return self._area(lambda f: abs(1 - f), lambda k: k)

    @property
    def cpr_log(self) -> float:
        """Mean of f over the logarithm of the share of edges."""
        return self._area(lambda f: f, log) / self._log_width

    @property
    def cmd_log(self) -> float:
        """Mean distance of f from 1 over the logarithm of the share of edges."""
        return self._area(lambda f: abs(1 - f), log) / self._log_width

    @property
    def _log_width(self) -> float:
        return log(self.points[-1].percent / self.points[0].percent)

    def _area(self, height: Callable[[float], float], axis: Callable[[float], float]) -> float:
        xs = [axis(point.percent / 100) for point in self.points]
        return trapezoid(xs, [height(point.faithfulness) for point in self.points])


@entry
def curve(
    problem: Problem,
    scores: Float[Tensor, "writer reader"],
    by: By = "signed",
    batch_size: int = 16,
    journal: Journal = FORGETFUL,
    rounds: ProgressCounter | None = None,
    ends: Ends | None = None,
) -> Curve:
    """Faithfulness of the best edges at ten sizes, `PERCENTAGES`.

    Args:
        scores: a number for every edge; cells without an edge are ignored.
        journal: stores the losses of every batch of prompts.
        rounds, ends: as in `measure_all`.

    Raises:
        GraphError: scores of another shape.
        NumericalError: an edge's score is NaN or infinite.
        SettingsError: faithfulness is undefined, see `check_gap`.
    """
    graph = problem.graph
    counts = [floor(Fraction(str(percent)) * graph.n_edges / 100) for percent in PERCENTAGES]
    circuits = [select_edges(graph, scores.cpu(), TopN(count, by)).prune() for count in counts]
    sizes = list(zip(PERCENTAGES, counts, strict=True))
    return Curve(by, points_of(problem, circuits, sizes, batch_size, journal, rounds, ends))


def points_of(
    problem: Problem,
    circuits: Sequence[Circuit],
    sizes: Sequence[tuple[float, int]],
    batch_size: int = 16,
    journal: Journal = FORGETFUL,
    rounds: ProgressCounter | None = None,
    ends: Ends | None = None,
) -> tuple[CurvePoint, ...]:
    """The sizes and faithfulness of circuits.

    Args:
        sizes: the requested percentage and number of edges of each circuit.
        journal: stores the losses of every batch of prompts.
        rounds, ends: as in `measure_all`.

    Raises:
        SettingsError: faithfulness is undefined, see `check_gap`.
    """
    metrics = problem.metric, metric("kl_divergence")
    readings, divergences = measure_all(problem, circuits, metrics, batch_size, journal, ends, rounds)
    values, kls = faithfulness(readings).tolist(), divergences.circuits.mean(-1).tolist()
    return tuple(
        CurvePoint(percent, count, circuit.n_edges, values[i], faithfulness_interval(readings, i), kls[i])
        for i, (circuit, (percent, count)) in enumerate(zip(circuits, sizes, strict=True))
    )


def trapezoid(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Area under straight lines between points."""
    return sum((xs[i + 1] - xs[i]) * (ys[i + 1] + ys[i]) / 2 for i in range(len(xs) - 1))
