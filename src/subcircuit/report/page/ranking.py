"""The edges of a circuit in the order in which the slider lets them in."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from subcircuit.graph import Circuit, Graph
from subcircuit.graph.paths import NEVER, joins


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
        """How many edges the largest circuit has."""
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
