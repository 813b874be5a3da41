"""A circuit as a networkx ``DiGraph``, as its node-link JSON, and as GraphML.

Nodes are writers and readers by name. An edge of the circuit has ``kind="edge"`` and its ``score``. An edge of ``kind="input"``
connects a head's reader to its writer, so that paths through the graph are paths through the circuit. The influence of the heads of
a layer on each other through a shared norm (sandwich norms) is left out, because it would make cycles. The graph's
attribute ``subcircuit`` describes the circuit's graph. Scores of cut edges are not included.

DOT, the language of graphviz, as text: components from bottom to top, kept edges coloured by their reader.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from subcircuit.errors import CircuitFileError, GraphError
from subcircuit.extras import require
from subcircuit.graph import Circuit, Edge, Graph, GraphShape, Reader, Scope
from subcircuit.graph.shape import differences
from subcircuit.io import read_json, read_text
from subcircuit.report.exchange.target import Gathered, Target, number
from subcircuit.report.picture import COLOURS
from subcircuit.report.summary import Summary
from subcircuit.text import inert
from subcircuit.units.nodes import at, bare

_EDGE, _INPUT, _ABOUT = "edge", "input", "subcircuit"


if TYPE_CHECKING:
    import networkx


def to_networkx(circuit: Circuit) -> "networkx.DiGraph[str]":
    """The kept edges as a directed acyclic graph.

    Raises:
        MissingExtraError: networkx is not installed.
    """
    graph, result = circuit.graph, _networkx().DiGraph()
    shape, scope = TypeAdapter(GraphShape), TypeAdapter(Scope)
    about = {"shape": shape.dump_python(graph.shape, mode="json"), "scope": scope.dump_python(graph.scope, mode="json")}
    result.graph[_ABOUT] = json.dumps(about, sort_keys=True)
    if (meaning := Summary.of(circuit).scores) is not None:
        result.graph["scores"] = meaning
    for edge in circuit.edges:
        for node in (edge.writer, edge.reader):
            result.add_node(str(node), **({} if node.layer is None else {"layer": node.layer}))
        score = math.nan if circuit.scores is None else float(circuit.scores[graph.find(edge)])
        result.add_edge(str(edge.writer), str(edge.reader), kind=_EDGE, **({} if math.isnan(score) else {"score": score}))
    inputs = _inputs(graph)
    for reader in dict.fromkeys(str(edge.reader) for edge in circuit.edges):
        for name in sorted(inputs[reader]):
            if name in result and name != reader:
                result.add_edge(reader, name, kind=_INPUT)
    return result


def from_networkx(network: Any, target: Target, file: Path = Path("the graph")) -> Circuit:
    """The circuit of such a graph; without the attribute ``subcircuit``, at the given scope or ``qkv``.

    Raises:
        CircuitFileError: edges that the model's graph does not have; GraphError: a circuit of another model.
    """
    if not network.is_directed() or network.is_multigraph():
        raise CircuitFileError(f"{file}: not a directed graph, or two edges between the same nodes")
    graph = _graph(network.graph.get(_ABOUT), target, file)
    gathered, inputs = Gathered(file, graph), _inputs(graph)
    for writer, reader, data in network.edges(data=True):
        names = str(writer), str(reader)
        if data.get("kind", _EDGE) == _INPUT:
            if names[1] not in inputs.get(names[0], ()):
                raise CircuitFileError(f"{file}: {names[0][:80]!r} is not an input of {names[1][:80]!r}")
            continue
        gathered.add(*names, kept=True, score=number(file, data.get("score", math.nan), f"the score of {names[0][:40]}"))
    return gathered.circuit()


def write_networkx(circuit: Circuit, path: Path) -> None:
    """Write node-link JSON, for ``networkx.node_link_graph``."""
    network = to_networkx(circuit)
    path.write_text(json.dumps(_networkx().node_link_data(network, edges="edges"), indent=1), encoding="utf-8")


def read_networkx(path: Path, target: Target) -> Circuit:
    """Read node-link JSON.

    Raises:
        CircuitFileError: not such a file; and as ``from_networkx``.
    """
    content, nx = read_json(path), _networkx()
    try:
        network = nx.node_link_graph(content, edges="edges")
        once = len(content["edges"]) == network.number_of_edges()
    except (nx.NetworkXException, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CircuitFileError(f"{path} is not node-link JSON of networkx: {type(error).__name__}") from None
    if not once:
        raise CircuitFileError(f"{path}: an edge occurs twice")
    return from_networkx(network, target, path)


def write_graphml(circuit: Circuit, path: Path) -> None:
    """Write GraphML, for Gephi, Cytoscape, yEd, networkx, igraph."""
    path.write_text("\n".join(_networkx().generate_graphml(to_networkx(circuit))) + "\n", encoding="utf-8")


def read_graphml(path: Path, target: Target) -> Circuit:
    """Read GraphML.

    Raises:
        CircuitFileError: not such a file, or one that declares entities; and as ``from_networkx``.
    """
    text = read_text(path)
    # expanded entities can grow without bound, and graphs need none
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise CircuitFileError(f"{path} declares a document type or an entity, which a graph does not need, and was not read")
    nx = _networkx()
    try:
        network = nx.parse_graphml(text)
    except Exception as error:  # the parser raises KeyError, TypeError, SyntaxError and more
        raise CircuitFileError(f"{path} cannot be read as GraphML: {type(error).__name__}: {str(error)[:200]}") from None
    return from_networkx(network, target, path)


def _networkx() -> Any:
    require("export")
    import networkx

    return networkx


def _inputs(graph: Graph) -> dict[str, frozenset[str]]:
    """For each reader, the names of the nodes that it feeds; none for the logits."""
    return {str(reader): frozenset(_written_through(graph, reader)) for reader in graph.readers}


def _written_through(graph: Graph, reader: Reader) -> Iterator[str]:
    here = graph.positions.index(reader.position)
    for writer in (graph.writers[index] for index in graph.owners(reader)):
        for position in graph.reached_from(reader):
            # if a node's input and output have one name, only one direction between two roles avoids cycles
            if position >= here or str(writer) != str(bare(reader)):
                yield str(at(writer, graph.positions[position]))


def _graph(about: object, target: Target, file: Path) -> Graph:
    if about is None:
        return target.graph_or(Scope())
    try:
        told = json.loads(str(about))
        shape = TypeAdapter(GraphShape).validate_python(told["shape"])
        scope = TypeAdapter(Scope).validate_python(told["scope"])
    except (KeyError, TypeError, ValueError, RecursionError, ValidationError):
        raise CircuitFileError(f"{file}: the attribute {_ABOUT!r} does not describe a graph") from None
    graph = target.graph(scope, shape.positions)
    if graph.shape != shape:
        raise GraphError(f"{file} is a circuit of another model; the graphs differ in {differences(shape, graph.shape)}")
    return graph


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
    """The edge, drawn to its reading component, or to several if heads share keys and values."""
    score = math.nan if circuit.scores is None else float(circuit.scores[circuit.graph.find(edge)])
    told = str(edge) if math.isnan(score) else f"{edge} {score:.4g}"
    look = f"color={_quoted(COLOURS[edge.reader.kind])}, tooltip={_quoted(told)}"
    return [f"  {_quoted(str(edge.writer))} -> {_quoted(end)} [{look}];" for end in map(str, circuit.graph.nodes_of(edge.reader))]


def _quoted(text: str) -> str:
    return '"' + inert(text).replace("\\", "\\\\").replace('"', '\\"') + '"'
