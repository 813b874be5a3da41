"""EAP-IG's and MIB's JSON: every edge by name, with its score and whether it is in the circuit.

    {"cfg": {…}, "nodes": {"a0.h0": {"in_graph": true}, …}, "edges": {"input->a0.h0<q>": {"score": 0.1, "in_graph": true}, …}}

An edge without a score is written as NaN, the way Python's ``json`` writes and reads it.
"""

import json
import math
from pathlib import Path

from subcircuit.errors import CircuitFileError
from subcircuit.graph import Circuit
from subcircuit.report.exchange.bounded import read_json
from subcircuit.report.exchange.mib import (
    check_expressible,
    config,
    destinations,
    graph_of_file,
    nodes_kept,
    ours,
    sources,
    width,
)
from subcircuit.report.exchange.target import Gathered, Target, number


def write_mib_json(circuit: Circuit, path: Path, d_model: int | None = None) -> None:
    """Write every edge of the graph.

    Raises:
        GraphError: a scope that the format cannot hold, or a width that is not known.
    """
    check_expressible(circuit, "mib-json")
    names, kept = (sources(circuit.graph), destinations(circuit.graph)), nodes_kept(circuit)
    in_graph = circuit.kept.tolist()
    scores = None if circuit.scores is None else circuit.scores.tolist()
    edges = {
        f"{names[0][w]}->{names[1][r]}": {"score": math.nan if scores is None else scores[w][r], "in_graph": in_graph[w][r]}
        for w, r in circuit.graph.edges.nonzero().tolist()
    }
    nodes = {name: {"in_graph": name in kept} for name in (*names[0], names[1][-1])}
    path.write_text(
        json.dumps({"cfg": config(circuit, width(circuit, d_model)), "nodes": nodes, "edges": edges}), encoding="utf-8"
    )


def read_mib_json(path: Path, target: Target | None) -> Circuit:
    """Read a circuit; edges that the file leaves out are cut and have no score.

    Args:
        target: the model; None takes the file's word for its sizes.

    Raises:
        CircuitFileError: not such a file, or damaged; GraphError: of another model.
    """
    content = read_json(path)
    edges = content.get("edges") if isinstance(content, dict) else None
    if not isinstance(edges, dict):
        raise CircuitFileError(f"{path} is not a MIB circuit: it has no object 'edges'")
    gathered = Gathered(path, graph_of_file(path, content.get("cfg"), target))
    for name, edge in edges.items():
        if not isinstance(edge, dict) or not isinstance(edge.get("in_graph", False), bool):
            raise CircuitFileError(f"{path}: the edge {name[:80]!r} is not an object with 'score' and 'in_graph'")
        writer, _, reader = name.partition("->")
        score = number(path, edge.get("score", math.nan), f"the score of {name[:80]!r}")
        gathered.add(ours(writer), reader, kept=edge.get("in_graph", False), score=score)
    return gathered.circuit()
