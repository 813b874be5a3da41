"""The model of an imported circuit, and the conversion of a file's edges to a circuit of its graph."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from subcircuit.errors import CircuitFileError, GraphError, SubcircuitError
from subcircuit.graph import Circuit, Edge, Graph, Scope
from subcircuit.model import TransformerConfig
from subcircuit.units.nodes import at


@dataclass(frozen=True)
class Target:
    """The model of an imported file.

    Args:
        config: the model's config.
        scope: the user's scope; None takes the file's.
    """

    config: TransformerConfig
    scope: Scope | None = None

    def graph(self, stated: Scope, positions: tuple[str, ...] = ()) -> Graph:
        """The model's graph at the scope of the file or of its format.

        Raises:
            GraphError: the user gave another scope, or the model does not have this one.
        """
        if self.scope not in (None, stated):
            raise GraphError(f"the file contains a circuit at scope {stated}, not at {self.scope}: leave the scope out")
        return Graph.of(self.config, stated, positions)

    def graph_or(self, otherwise: Scope) -> Graph:
        """The model's graph at the user's scope, for files without a scope.

        Raises:
            GraphError: the scope separates positions, which such files do not list.
        """
        scope = otherwise if self.scope is None else self.scope
        if scope.positions != "all":
            raise GraphError(f"scope {scope}: the file does not list the positions; networkx and graphml files do")
        return Graph.of(self.config, scope)


class Gathered:
    """Edges from a file, each at most once.

    Args:
        file: path of the file, for messages.
        graph: the graph that must have the edges.
    """

    def __init__(self, file: Path, graph: Graph):
        self.file, self.graph = file, graph
        named = ((at(writer, position), index) for index, writer in enumerate(graph.writers) for position in graph.positions)
        self._writers = {str(writer): index for writer, index in named}
        self._readers = {str(reader): index for index, reader in enumerate(graph.readers)}
        self._exists = graph.edges.tolist()
        self._found: dict[tuple[int, int], tuple[bool, float]] = {}

    def add(self, writer: str, reader: str, *, kept: bool, score: float = math.nan) -> None:
        """Add an edge.

        Raises:
            CircuitFileError: the graph does not have the edge, or it was already added.
        """
        row, column = self._writers.get(writer), self._readers.get(reader)
        together = writer.partition("@")[2] == reader.partition("@")[2]
        if row is None or column is None or not together or not self._exists[row][column]:
            raise CircuitFileError(f"{self.file}: {self._why_not(writer, reader)}")
        if (row, column) in self._found:
            raise CircuitFileError(f"{self.file}: the edge {writer}->{reader} occurs twice")
        self._found[row, column] = (kept, score)

    def circuit(self) -> Circuit:
        """The circuit of the added edges; its scores are None if no edge has one."""
        kept = torch.zeros_like(self.graph.edges)
        scores = torch.full(kept.shape, math.nan)
        if self._found:
            rows, columns = torch.tensor(list(self._found)).T
            kept[rows, columns] = torch.tensor([entry[0] for entry in self._found.values()])
            scores[rows, columns] = torch.tensor([entry[1] for entry in self._found.values()], dtype=torch.float32)
        return Circuit(self.graph, kept, None if bool(scores.isnan().all()) else scores)

    def _why_not(self, writer: str, reader: str) -> str:
        try:
            self.graph.find(Edge(self.graph.writer(writer[:80]), self.graph.reader(reader[:80])))
        except SubcircuitError as error:
            return f"{error} Is it a circuit of this model, at this scope?"
        return f"{writer[:80]!r}->{reader[:80]!r} is not an edge of this graph"


def number(file: Path, value: object, what: str) -> float:
    """A number from a file; NaN for an unmeasured edge.

    Raises:
        CircuitFileError: the value is not a number, or too large for float32.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CircuitFileError(f"{file}: {what} is not a number")
    try:
        return float(value)
    except OverflowError:
        raise CircuitFileError(f"{file}: {what} is too large a number") from None
