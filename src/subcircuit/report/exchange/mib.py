"""The two formats of EAP-IG and MIB, JSON and ``.pt``: their limits, and their order of nodes.

Sources are the input, then per layer the heads and the MLP: 1 + L (H + 1). Destinations are per layer the queries of all
heads, their keys, their values and the MLP, and last the logits: L (3 H + 1) + 1. This is the order of our graphs at scope
``qkv``; only the embedding has another name, ``input``. Keys and values are counted per query head.

EAP-IG's and MIB's JSON: every edge by name, with its score and whether it is in the circuit.

    {"cfg": {…}, "nodes": {"a0.h0": {"in_graph": true}, …}, "edges": {"input->a0.h0<q>": {"score": 0.1, "in_graph": true}, …}}

An edge without a score is written as NaN, the way Python's ``json`` writes and reads it.

EAP-IG's and MIB's ``.pt``: a plain dict of names and matrices, read only with ``weights_only=True``.

    cfg, src_nodes [S], dst_nodes [D], edges_scores float32 [S, D], edges_in_graph bool [S, D], nodes_in_graph bool [S]

Cells without an edge are written as 0 and False, and ignored when read.
"""

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subcircuit.errors import CircuitFileError, GraphError
from subcircuit.graph import Circuit, Embed, Graph, GraphShape, Logits, Scope
from subcircuit.io import LARGEST_FILE, read_json
from subcircuit.report.exchange.target import Gathered, Target, number

# more than any model of the benchmark has; a file must not cause a larger matrix
MOST_SOURCES = 6000


def check_expressible(circuit: Circuit, what: str) -> None:
    """Refuse circuits that the format cannot hold.

    Raises:
        GraphError: another scope than ``qkv`` with keys and values per query head, or a model without MLPs.
    """
    graph = circuit.graph
    if graph.scope_text != str(Scope()):
        raise GraphError(
            f"{what} stores circuits at scope qkv with keys and values per query head, and this circuit is at {graph.scope_text}: "
            "search with --scope qkv and without --kv and --split-embeddings, or export to networkx, graphml or csv"
        )
    if not graph.shape.mlps:
        raise GraphError(f"{what} requires an MLP in every layer, and this model has no MLPs: export to networkx, graphml or csv")


def sources(graph: Graph) -> list[str]:
    """Names of the writers in the format."""
    return [theirs(str(writer)) for writer in graph.writers]


def destinations(graph: Graph) -> list[str]:
    """Names of the readers."""
    return [str(reader) for reader in graph.readers]


def theirs(name: str) -> str:
    """The format's name of a writer, from ours."""
    return "input" if name == str(Embed()) else name


def ours(name: str) -> str:
    """Our name of a writer, from the format's; the format has no ``embed``."""
    return str(Embed()) if name == "input" else f"input (not {name})" if name == str(Embed()) else name


def config(circuit: Circuit, d_model: int) -> dict[str, Any]:
    """The ``cfg`` of a file."""
    shape = circuit.graph.shape
    return {
        "n_layers": shape.n_layers,
        "n_heads": shape.n_heads,
        "parallel_attn_mlp": shape.parallel,
        "d_model": d_model,
    }


def width(circuit: Circuit, d_model: int | None) -> int:
    """The width of the model: the given one, else the recorded one.

    Raises:
        GraphError: neither is known.
    """
    known = d_model or (circuit.record.model.d_model if circuit.record else None)
    if known is None:
        raise GraphError(
            "the format requires the width of the model, which this circuit does not record: give --model (in Python, d_model=…)"
        )
    return known


def nodes_kept(circuit: Circuit) -> set[str]:
    """Names of the nodes with a kept edge, and always the input, as the tools expect."""
    return {"input", *(theirs(str(node)) for node in circuit.nodes)} | {str(Logits())}


def graph_of_file(file: Path, cfg: object, target: Target | None) -> Graph:
    """The graph that a file's ``cfg`` describes, which must be the model's if there is one.

    Raises:
        CircuitFileError: the sizes are missing or out of range.
        GraphError: the sizes are those of another model.
    """
    layers, heads = (_size(file, cfg, name) for name in ("n_layers", "n_heads"))
    parallel = isinstance(cfg, dict) and bool(cfg.get("parallel_attn_mlp", False))
    if layers * (heads + 1) > MOST_SOURCES:
        raise CircuitFileError(f"{file}: no model has {layers:,} layers of {heads:,} heads")
    if target is None:
        return Graph(GraphShape(layers, heads, heads, parallel=parallel), Scope())
    graph = target.graph(Scope())
    shape = graph.shape
    if (layers, heads, parallel, True) != (shape.n_layers, shape.n_heads, shape.parallel, shape.mlps):
        raise GraphError(
            f"{file} is a circuit of a model of {_described(layers, heads, parallel)}, and this model has "
            f"{_described(shape.n_layers, shape.n_heads, shape.parallel)}{'' if shape.mlps else ' and no MLPs'}"
        )
    return graph


def _size(file: Path, cfg: object, name: str) -> int:
    value = cfg.get(name) if isinstance(cfg, dict) else None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_SOURCES:
        raise CircuitFileError(f"{file}: cfg.{name} is not a number of {name.removeprefix('n_')}")
    return value


def _described(layers: int, heads: int, parallel: bool) -> str:
    return f"{layers} layers of {heads} heads{', attention and MLP side by side' if parallel else ''}"


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


# names and sizes; the numbers are in separate files of the archive
_LARGEST_PICKLE = 1 << 24


def write_mib_pt(circuit: Circuit, path: Path, d_model: int | None = None) -> None:
    """Write the matrices of scores and of kept edges; an edge without a score is NaN.

    Raises:
        GraphError: a scope that the format cannot hold, or a width that is not known.
    """
    check_expressible(circuit, "mib-pt")
    graph, kept = circuit.graph, nodes_kept(circuit)
    scores = torch.full(graph.edges.shape, torch.nan) if circuit.scores is None else circuit.scores.to(torch.float32).cpu()
    content = {
        "cfg": config(circuit, width(circuit, d_model)),
        "src_nodes": sources(graph),
        "dst_nodes": destinations(graph),
        "edges_scores": scores.masked_fill(~graph.edges, 0.0),
        "edges_in_graph": circuit.kept.cpu().clone(),
        "nodes_in_graph": torch.tensor([name in kept for name in sources(graph)]),
    }
    torch.save(content, path)


def read_mib_pt(path: Path, target: Target | None) -> Circuit:
    """Read a circuit.

    Args:
        target: the model; None takes the file's word for its sizes.

    Raises:
        CircuitFileError: not such a file, damaged, or one that resolves neurons; GraphError: of another model.
    """
    content = _load(path)
    graph = graph_of_file(path, content.get("cfg"), target)
    for key, expected in (("src_nodes", sources(graph)), ("dst_nodes", destinations(graph))):
        if content.get(key) != expected:
            raise CircuitFileError(f"{path}: {key} must be the {len(expected):,} node names of the model, in order")
    for key in ("neurons_in_graph", "neurons_scores"):
        if content.get(key) is not None:
            raise CircuitFileError(
                f"{path}: {key}: the circuit selects single neurons of nodes, which a circuit of edges cannot express"
            )
    kept = _matrix(path, content, "edges_in_graph", torch.bool, graph) & graph.edges
    scores = _matrix(path, content, "edges_scores", torch.float32, graph).masked_fill(~graph.edges, torch.nan)
    return Circuit(graph, kept, None if bool(scores.isnan().all()) else scores)


def _load(path: Path) -> dict[str, Any]:
    _check_sizes(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch can raise any exception for a file that is damaged or contains more than tensors
        reason = str(error).partition("\n")[0][:200]
        raise CircuitFileError(
            f"{path} is damaged or contains more than names and tensors, and was not loaded: {reason}"
        ) from None
    if not isinstance(content, dict):
        raise CircuitFileError(f"{path} is not a MIB circuit: it does not contain a dict")
    return content


def _check_sizes(path: Path) -> None:
    """Refuse a file that is not a zip file of torch, or that would unpack to more than the limit."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CircuitFileError(f"{path} was not written by torch.save: {error}") from None
    unpacked = sum(entry.file_size for entry in entries)
    pickles = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
    if unpacked > LARGEST_FILE or pickles > _LARGEST_PICKLE:
        raise CircuitFileError(f"{path} would unpack to {unpacked / 2**20:,.0f} MB, more than any circuit")


def _matrix(path: Path, content: dict[str, Any], key: str, dtype: torch.dtype, graph: Graph) -> Tensor:
    value, shape = content.get(key), tuple(graph.edges.shape)
    if not isinstance(value, Tensor) or tuple(value.shape) != shape or value.layout != torch.strided or value.is_complex():
        raise CircuitFileError(f"{path}: {key} is not a matrix of {shape[0]:,} × {shape[1]:,}")
    return value.detach().to(dtype)
