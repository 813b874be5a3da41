"""A table of edges: ``writer,reader,kept,score``, one row for every edge that is kept or has a score.

The edges of a circuit are stored without loss. An unmeasured edge has an empty score.
"""

import csv
import io
import math
from pathlib import Path

from subcircuit.errors import CircuitFileError
from subcircuit.graph import Circuit, Scope
from subcircuit.io import read_text, write_csv
from subcircuit.report.exchange.target import Gathered, Target

HEADER = ("writer", "reader", "kept", "score")
_LONGEST_ROW = 1000


def write_edges_csv(circuit: Circuit, path: Path) -> None:
    """Write the table, by reader and then writer in order of computation."""
    graph, scores = circuit.graph, circuit.scores
    scored = circuit.kept if scores is None else ~scores.isnan() & graph.edges
    rows = []
    for r, w in (circuit.kept | scored).T.nonzero().tolist():
        score = math.nan if scores is None else float(scores[w, r])
        edge = graph.edge(w, r)
        rows.append((edge.writer, edge.reader, int(circuit.kept[w, r]), None if math.isnan(score) else repr(score)))
    write_csv(path, HEADER, rows)


def read_edges_csv(path: Path, target: Target) -> Circuit:
    """Read a circuit; without a scope, at scope ``qkv``.

    Raises:
        CircuitFileError: not such a table, a row that cannot be read, or an edge that the graph does not have.
    """
    lines = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    gathered = Gathered(path, target.graph_or(Scope()))
    try:
        if next(lines, None) != list(HEADER):
            raise CircuitFileError(f"{path}: the first line is not {','.join(HEADER)}")
        for row in lines:
            if len(row) != len(HEADER) or sum(map(len, row)) > _LONGEST_ROW or row[2] not in ("0", "1"):
                raise CircuitFileError(f"{path}, line {lines.line_num}: expected a writer, a reader, 0 or 1, and a score")
            gathered.add(row[0], row[1], kept=row[2] == "1", score=_score(path, lines.line_num, row[3]))
    except csv.Error as error:
        raise CircuitFileError(f"{path}, line {lines.line_num}: not comma-separated values: {error}") from None
    return gathered.circuit()


def _score(path: Path, line: int, text: str) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        raise CircuitFileError(f"{path}, line {line}: {text[:40]!r} is not a number") from None
