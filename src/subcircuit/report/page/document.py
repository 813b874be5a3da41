"""The page's data as one JSON document: a graph, circuits of it with their edges in the order of their effect, and labels.

Nodes are drawn on a grid of layers by components, the same for all circuits of a graph. Rows go up with the order of
computation: the embedding, each layer's attention, its MLP half a row higher, the logits. Columns are heads; MLPs have a
column of their own. Parts of one component (neurons, experts, positions) share its cell.

Labels come from the file that ``explain`` writes beside the circuit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subcircuit.errors import GraphError
from subcircuit.explain import EXPLANATION_FILE, Explanation
from subcircuit.explain.labels import UNCLEAR
from subcircuit.graph import Circuit, Graph, RefinePath
from subcircuit.report.page.arrays import Json, narrow, packed
from subcircuit.report.page.slider import Ranking, finished, path_document, union
from subcircuit.report.summary import WARNING, Summary
from subcircuit.text import inert

FORMAT = 1


@dataclass(frozen=True)
class Shown:
    """A circuit with its name on the page.

    Args:
        name: its name, unique on the page.
        circuit: the circuit; its scores order its edges.
        labels: labels and evidence from ``explain``, by component.
        path: the circuits of the refinement that found it, for the slider; None without one.
        problem: the reason why a path is missing.
    """

    name: str
    circuit: Circuit
    labels: Mapping[str, Mapping[str, Any]]
    path: RefinePath | None = None
    problem: str | None = None

    def ranking(self, most: int | None = None) -> Ranking:
        """The edges that the page lists, strongest first.

        Args:
            most: as in `Ranking.of`; every edge of a circuit of the path is listed in any case.
        """
        return Ranking.of(self.circuit, most, None if self.path is None else union(self.path))


def check_one_graph(circuits: Sequence[Shown]) -> Graph:
    """The graph of all circuits.

    Raises:
        GraphError: they are of different graphs.
    """
    first = circuits[0]
    for other in circuits[1:]:
        if other.circuit.graph != first.circuit.graph:
            raise GraphError(
                f"{first.name} and {other.name} are circuits of different graphs and cannot be shown on one page; the graphs differ in "
                f"{first.circuit.graph.unlike(other.circuit.graph)}"
            )
    return first.circuit.graph


def graph_document(graph: Graph) -> Json:
    """Nodes with their positions, and the node of each reader."""
    nodes = (*graph.writers, *graph.units[-1].readers)
    return {
        "layers": graph.shape.n_layers,
        "edges": graph.n_edges,
        "nodes": [{"name": str(node), "kind": node.kind, "layer": node.layer, "column": node.column} for node in nodes],
        "readers": [{"name": str(r), "kind": r.kind, "nodes": graph.owners(r) or (len(graph.writers),)} for r in graph.readers],
    }


def circuit_document(shown: Shown, ranking: Ranking) -> Json:
    """A circuit's summary, labels and edges."""
    summary, record = Summary.of(shown.circuit), shown.circuit.record
    return {
        "name": inert(shown.name),
        "title": inert(summary.title),
        # above the map, and not among what was measured
        "warnings": [inert(words) for words in (*summary.warnings, *([] if shown.problem is None else [shown.problem]))],
        "rows": [[name, inert(value)] for name, value in summary.rows if name != WARNING],
        "metric": None if record is None else record.metric,
        "method": None if record is None else record.method.name,
        "meaning": summary.scores,
        "finished": finished(shown.circuit),
        "labels": {name: _label(label) for name, label in shown.labels.items()},
        "edges": {
            "count": len(ranking.kept),
            "kept_count": int(ranking.kept.sum()),
            "writers": packed(narrow(ranking.writers)),
            "readers": packed(narrow(ranking.readers)),
            "scores": packed(ranking.scores.astype(np.float32)),
            "kept": packed(ranking.kept.astype(np.uint8)),
            "among_kept": packed(narrow(ranking.among_kept)),
            "among_all": packed(narrow(ranking.among_all)),
        },
        "path": None if shown.path is None else path_document(shown.path, shown.circuit, ranking),
    }


def _label(label: Mapping[str, Any]) -> Json:
    """The label of a component with its evidence, or the evidence alone if it has no label."""
    label = {**label, "label": None} if label.get("label") == UNCLEAR else label
    return {key: inert(str(label[key])) for key in ("label", "evidence") if label.get(key)}


def read_labels(directory: Path) -> Mapping[str, Mapping[str, Any]]:
    """Label and evidence of each component; empty if the circuit has no explanation.

    Raises:
        CircuitFileError: the file is damaged, or of a newer format.
    """
    if not (directory / EXPLANATION_FILE).is_file():
        return {}
    components = Explanation.load(directory).components
    return {name: {"label": component.label, "evidence": component.evidence} for name, component in components.items()}
