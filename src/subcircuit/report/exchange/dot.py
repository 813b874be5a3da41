"""DOT, the language of graphviz, as text: components from bottom to top, kept edges coloured by what reads them."""

import math
from pathlib import Path

from subcircuit.graph import Circuit, Edge, Logits, Reader
from subcircuit.inert import inert
from subcircuit.report.picture import COLOURS, kind_of
from subcircuit.report.summary import Summary
from subcircuit.units.nodes import at


def write_dot(circuit: Circuit, path: Path) -> None:
    """Write the circuit; ``dot -Tsvg`` draws it where graphviz is installed."""
    path.write_text(dot(circuit), encoding="utf-8")


def dot(circuit: Circuit) -> str:
    """The circuit as a ``digraph``."""
    nodes = [f"  {_quoted(str(node))};" for node in circuit.nodes]
    edges = [line for edge in circuit.edges for line in _lines(circuit, edge)]
    summary = Summary.of(circuit)
    meaning = [f"  tooltip={_quoted(f'score: {summary.scores}')};"] if summary.scores else []
    opening = [
        "digraph circuit {",
        "  rankdir=BT;",
        f"  label={_quoted(summary.title)};",
        *meaning,
        '  node [shape=box, style=rounded, fontname="DejaVu Sans"];',
    ]
    return "\n".join([*opening, *nodes, *edges, "}"]) + "\n"


def _lines(circuit: Circuit, edge: Edge) -> list[str]:
    """The edge, drawn to the component that reads: to several where heads share keys and values."""
    score = math.nan if circuit.scores is None else float(circuit.scores[circuit.graph.find(edge)])
    told = str(edge) if math.isnan(score) else f"{edge} {score:.4g}"
    look = f"color={_quoted(COLOURS[kind_of(edge.reader)])}, tooltip={_quoted(told)}"
    return [f"  {_quoted(str(edge.writer))} -> {_quoted(end)} [{look}];" for end in _ends(circuit, edge.reader)]


def _ends(circuit: Circuit, reader: Reader) -> list[str]:
    if isinstance(reader, Logits):
        return [str(reader)]
    return [str(at(circuit.graph.writers[index], reader.place)) for index in circuit.graph.owners(reader)]


def _quoted(text: str) -> str:
    return '"' + inert(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
