"""The page's slider: its order of edges, and the metric, KL and faithfulness of each circuit along it.

A threshold keeps a prefix of the ranking. For a refinement, the slider follows the circuits of its path instead.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from subcircuit.errors import CircuitFileError, SettingsError
from subcircuit.evaluate import faithfulness, measure_all
from subcircuit.evaluate.measure import Ends
from subcircuit.graph import PATH_FILE, Circuit, Graph, Point, RefinePath, Standing, load_path
from subcircuit.graph.file import CIRCUIT_FILE
from subcircuit.graph.paths import NEVER, joins
from subcircuit.report.page.arrays import Json, finite, narrow, packed
from subcircuit.search import Problem
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.search.progress import ProgressCounter
from subcircuit.tasks import metric


@dataclass(frozen=True, eq=False)
class Ranking:
    """Edges of a circuit, and as many of the others as are shown, strongest first.

    Edges without a score come last, in order of computation. A threshold leaves a prefix of them, of which the edges on a path
    from an embedding to the logits are shown. These circuits are told apart by their size: an edge is in those that have at
    least its ``among_kept`` edges, where only the circuit's edges are listed, or its ``among_all``; 0 where no threshold
    connects it.

    Args:
        writers, readers: row and column of each edge.
        scores: NaN where there is none.
        kept: whether the edge is in the circuit.
        among_kept: size of the smallest circuit with this edge, of the circuit's edges; 0 for other edges.
        among_all: size of the smallest circuit with this edge, of all edges that are listed.
    """

    writers: np.ndarray
    readers: np.ndarray
    scores: np.ndarray
    kept: np.ndarray
    among_kept: np.ndarray
    among_all: np.ndarray

    @staticmethod
    def of(circuit: Circuit, most: int | None = None, also: Bool[Tensor, "writer reader"] | None = None) -> "Ranking":
        """The ranking of a circuit's edges and of the strongest others.

        Args:
            most: how many edges at most, unless the circuit has more; None for all that have a score.
            also: other edges that are listed in any case.
        """
        graph, scores = circuit.graph, _scores(circuit)
        must = circuit.kept.cpu() if also is None else circuit.kept.cpu() | also.cpu()
        listed = must | (graph.edges.cpu() & scores.isfinite())
        readers, writers = listed.T.nonzero().T.numpy()
        values, kept, needed = (matrix.cpu().numpy()[writers, readers] for matrix in (scores, circuit.kept, must))
        order = np.argsort(-np.where(np.isfinite(values), np.abs(values), -1.0), kind="stable")
        if most is not None and len(order) > most:
            others = max(0, most - int(needed.sum()))
            order = order[needed[order] | (np.cumsum(~needed[order]) <= others)]
        writers, readers, kept = writers[order], readers[order], kept[order]
        whole = finished(circuit)
        among_all = _sizes(graph, writers, readers, np.ones_like(kept), whole)
        among_kept = among_all if kept.all() else _sizes(graph, writers, readers, kept, whole)
        return Ranking(writers, readers, values[order], kept, among_kept, among_all)

    def mask(self, graph: Graph, edges: int, kept_only: bool) -> torch.Tensor:
        """The largest circuit of at most so many edges, of the circuit's or of all that are listed, as a mask of a graph."""
        sizes = self._among(kept_only)
        chosen = (sizes > 0) & (sizes <= edges)
        mask = torch.zeros(graph.edges.shape, dtype=torch.bool)
        mask[self.writers[chosen], self.readers[chosen]] = True
        return mask

    def count(self, kept_only: bool) -> int:
        """The number of edges of the largest circuit."""
        return int(self._among(kept_only).max(initial=0))

    def nearest(self, edges: int, kept_only: bool) -> int:
        """The size of the largest circuit of at most so many edges; of the smallest one where all have more."""
        sizes = np.unique(self._among(kept_only))
        sizes = sizes[sizes > 0]
        within = sizes[sizes <= edges]
        return int(within[-1] if len(within) else sizes[0] if len(sizes) else 0)

    def _among(self, kept_only: bool) -> NDArray[Any]:
        return self.among_kept if kept_only else self.among_all


def finished(circuit: Circuit) -> bool:
    """Whether the search of a circuit is done: until then its record has no results."""
    return circuit.record is None or bool(circuit.record.results)


def _sizes(graph: Graph, writers: NDArray[Any], readers: NDArray[Any], listed: NDArray[Any], whole: bool) -> NDArray[Any]:
    """Sizes of the smallest connected circuits that hold each edge; of a running search, what is upstream is still whole."""
    ranks = torch.full(graph.edges.shape, NEVER)
    ranks[writers[listed], readers[listed]] = torch.arange(1, int(listed.sum()) + 1)
    since = joins(graph, ranks, from_embedding=whole).numpy()[writers, readers]
    connected = since < NEVER
    return np.where(connected, np.searchsorted(np.sort(since[connected]), since, side="right"), 0)


def _scores(circuit: Circuit) -> torch.Tensor:
    if circuit.scores is None:
        return torch.full(circuit.graph.edges.shape, float("nan"))
    return circuit.scores.cpu()


POINTS = 12


@dataclass(frozen=True, eq=False)
class PrefixRuns:
    """The steps in which sizes are measured, as arguments of `measure_all`.

    Args:
        batch_size: prompts that run together: a step.
        journal: told of every step.
        ends: what was run of model and empty circuit, for the next size.
    """

    batch_size: int = 16
    journal: Journal = FORGETFUL
    ends: Ends = field(default_factory=dict)


def sizes(count: int, points: int = POINTS) -> list[int]:
    """Numbers of edges between 1 and ``count``, both included, about evenly spaced on a logarithmic axis."""
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
    pace: PrefixRuns | None = None,
    rounds: ProgressCounter | None = None,
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
    pace = PrefixRuns() if pace is None else pace
    readings, divergences = measure_all(problem, circuits, metrics, pace.batch_size, pace.journal, pace.ends, rounds)
    mean = readings.metric.mean
    try:
        faithful, why = [finite(f) for f in faithfulness(readings).tolist()], None
    except SettingsError as error:
        faithful, why = [None] * len(counts), str(error)
    values, kls = map(mean, readings.circuits), map(divergences.metric.mean, divergences.circuits)
    return {
        "metric": problem.metric.name,
        "model": finite(mean(readings.model)),
        "empty": finite(mean(readings.empty)),
        "why": why,
        "points": [
            {"edges": count, "metric": finite(m), "kl": finite(kl), "faithfulness": f}
            for count, m, kl, f in zip(counts, values, kls, faithful, strict=True)
        ],
    }


# of what is wrong with a path, which may quote the file
_LONGEST = 120


def read_path(place: Path, circuit: Circuit) -> tuple[RefinePath | None, str | None]:
    """The path beside a circuit and None, or None and why it cannot be used; twice None where there is none.

    Args:
        place: the circuit's directory, or its ``circuit.json``.
        circuit: what is saved there, which a refinement chose from its path.
    """
    directory = place.parent if place.name == CIRCUIT_FILE else place
    file = directory / PATH_FILE
    if not os.path.lexists(file):
        return None, None
    try:
        path = load_path(directory, circuit.graph)
        if not any(point.kept.equal(circuit.kept) for point in path.points):
            raise CircuitFileError(f"{file} is the refinement path of another circuit: it does not contain this circuit")
        return path, None
    except CircuitFileError as error:
        # the name alone: pages are shown to others
        words = str(error).replace(str(file), PATH_FILE)
        words = words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"
        return None, f"{words}: the slider keeps the strongest edges instead"


def union(path: RefinePath) -> Bool[Tensor, "writer reader"]:
    """Every edge of the circuits at which the slider stops."""
    first, *others = (point.kept for point in path.stops)
    found = first.clone()
    for kept in others:
        found |= kept
    return found


def path_document(path: RefinePath, circuit: Circuit, ranking: Ranking) -> Json:
    """The circuits at which the slider stops, from the smallest to the largest, each with its measurements.

    Args:
        circuit: the one that was chosen from the path.
        ranking: holds every edge of them; they are given by their numbers in it.
    """
    numbers = np.full(path.graph.edges.shape, -1, dtype=np.int64)
    numbers[ranking.writers, ranking.readers] = np.arange(len(ranking.writers))
    return {
        "chosen": circuit.n_edges,
        # a smaller circuit may do better on the prompts that judge than the one that reaches the targets
        "holds_chosen": any(point.kept.equal(circuit.kept.cpu()) for point in path.stops),
        "stops": [_stop(point, numbers) for point in path.stops],
    }


def _stop(point: Point, numbers: NDArray[Any]) -> Json:
    edges = np.sort(numbers[point.kept.numpy()])
    return {
        "edges": packed(narrow(edges)),
        "action": point.action,
        "search": _standing(point.search),
        "validation": None if point.validation is None else _standing(point.validation),
    }


def _standing(standing: Standing) -> Json:
    return {"faithfulness": finite(standing.faithfulness), "kl": finite(standing.kl)}
