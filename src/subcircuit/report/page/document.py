"""What the page shows, as one JSON document: a graph, and circuits of it with their edges in the order of their effect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from subcircuit.errors import GraphError
from subcircuit.explain.labels import UNCLEAR
from subcircuit.graph import Circuit, Graph
from subcircuit.inert import inert
from subcircuit.report.page.packed import Json, packed
from subcircuit.report.page.places import kind_of, nodes_of, places
from subcircuit.report.summary import Summary

FORMAT = 1


@dataclass(frozen=True)
class Shown:
    """A circuit with its name on the page.

    Args:
        name: what tells it from other circuits there.
        circuit: its scores order its edges.
        labels: what ``explain`` says of its components, by name.
    """

    name: str
    circuit: Circuit
    labels: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Edges of a circuit, and as many of the others as are shown, strongest first.

    Edges without a score come last, in order of computation. A prefix of them is what a threshold leaves.

    Args:
        writers, readers: row and column of each edge.
        scores: NaN where there is none.
        kept: whether the edge is in the circuit.
    """

    writers: np.ndarray
    readers: np.ndarray
    scores: np.ndarray
    kept: np.ndarray

    @staticmethod
    def of(circuit: Circuit, most: int | None = None) -> "Ranking":
        """The ranking of a circuit's edges and of the strongest others.

        Args:
            most: how many edges at most, unless the circuit has more; None for all that have a score.
        """
        scores = _scores(circuit)
        listed = circuit.kept.cpu() | (circuit.graph.edges.cpu() & scores.isfinite())
        readers, writers = listed.T.nonzero().T.numpy()
        values, kept = (matrix.cpu().numpy()[writers, readers] for matrix in (scores, circuit.kept))
        order = np.argsort(-np.where(np.isfinite(values), np.abs(values), -1.0), kind="stable")
        if most is not None and len(order) > most:
            others = max(0, most - int(kept.sum()))
            order = order[kept[order] | (np.cumsum(~kept[order]) <= others)]
        return Ranking(writers[order], readers[order], values[order], kept[order])

    def mask(self, graph: Graph, edges: int, kept_only: bool) -> torch.Tensor:
        """The first so many edges, of the circuit's or of all that are listed, as a mask of a graph."""
        chosen = np.flatnonzero(self.kept)[:edges] if kept_only else np.arange(min(edges, len(self.kept)))
        mask = torch.zeros(graph.edges.shape, dtype=torch.bool)
        mask[self.writers[chosen], self.readers[chosen]] = True
        return mask

    def count(self, kept_only: bool) -> int:
        """How many edges there are to choose from."""
        return int(self.kept.sum()) if kept_only else len(self.kept)


def check_one_graph(circuits: Sequence[Shown]) -> Graph:
    """The graph of all circuits.

    Raises:
        GraphError: they are of different graphs.
    """
    first = circuits[0]
    for other in circuits[1:]:
        if other.circuit.graph != first.circuit.graph:
            raise GraphError(
                f"{first.name} and {other.name} are circuits of different graphs and cannot be shown together; they differ in "
                f"{first.circuit.graph.unlike(other.circuit.graph)}"
            )
    return first.circuit.graph


def graph_document(graph: Graph) -> Json:
    """Nodes with their places, and which of them each reader belongs to."""
    where = places(graph)
    return {
        "layers": graph.shape.n_layers,
        "edges": graph.n_edges,
        "nodes": [{"name": p.name, "kind": p.kind, "layer": p.layer, "column": p.column} for p in where],
        "readers": [{"name": str(r), "kind": kind_of(r), "nodes": nodes_of(graph, r)} for r in graph.readers],
    }


def circuit_document(shown: Shown, ranking: Ranking) -> Json:
    """A circuit's summary, labels and edges."""
    summary, record = Summary.of(shown.circuit), shown.circuit.record
    return {
        "name": inert(shown.name),
        "title": inert(summary.title),
        "rows": [[name, inert(value)] for name, value in summary.rows],
        "metric": None if record is None else record.metric,
        "method": None if record is None else record.method.name,
        # of a search that still runs, the record has no results
        "finished": record is None or bool(record.results),
        "labels": {name: _label(label) for name, label in shown.labels.items()},
        "edges": {
            "count": len(ranking.kept),
            "kept_count": int(ranking.kept.sum()),
            "writers": packed(_narrow(ranking.writers)),
            "readers": packed(_narrow(ranking.readers)),
            "scores": packed(ranking.scores.astype(np.float32)),
            "kept": packed(ranking.kept.astype(np.uint8)),
        },
    }


def _scores(circuit: Circuit) -> torch.Tensor:
    if circuit.scores is None:
        return torch.full(circuit.graph.edges.shape, float("nan"))
    return circuit.scores.cpu()


def _narrow(indices: np.ndarray) -> np.ndarray:
    return indices.astype(np.uint16 if indices.max(initial=0) < 1 << 16 else np.uint32)


def _label(label: Mapping[str, Any]) -> Json:
    """Of a component without a label its evidence alone."""
    label = {**label, "label": None} if label.get("label") == UNCLEAR else label
    return {key: inert(str(label[key])) for key in ("label", "evidence") if label.get(key)}
