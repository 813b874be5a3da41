"""EAP-IG's and MIB's ``.pt``: a plain dict of names and matrices, read with ``weights_only=True`` alone.

    cfg, src_nodes [S], dst_nodes [D], edges_scores float32 [S, D], edges_in_graph bool [S, D], nodes_in_graph bool [S]

Cells that are no edge hold 0 and False when written, and are not looked at when read.
"""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subcircuit.errors import CircuitFileError
from subcircuit.graph import Circuit, Graph
from subcircuit.report.exchange.bounded import LARGEST_FILE
from subcircuit.report.exchange.mib import (
    check_expressible,
    config,
    destinations,
    graph_of_file,
    nodes_kept,
    sources,
    width,
)
from subcircuit.report.exchange.target import Target

# names and sizes; the numbers lie in files of their own beside it
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
            raise CircuitFileError(f"{path}: {key} are not the {len(expected):,} names that such a model has, in their order")
    for key in ("neurons_in_graph", "neurons_scores"):
        if content.get(key) is not None:
            raise CircuitFileError(f"{path}: {key}: it resolves single neurons of what nodes write, which edges cannot say")
    kept = _matrix(path, content, "edges_in_graph", torch.bool, graph) & graph.edges
    scores = _matrix(path, content, "edges_scores", torch.float32, graph).masked_fill(~graph.edges, torch.nan)
    return Circuit(graph, kept, None if bool(scores.isnan().all()) else scores)


def _load(path: Path) -> dict[str, Any]:
    _check_sizes(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what it likes when a file is damaged or asks for more than tensors
        reason = str(error).partition("\n")[0][:200]
        raise CircuitFileError(f"{path} holds more than names and tensors, or is damaged, and was not loaded: {reason}") from None
    if not isinstance(content, dict):
        raise CircuitFileError(f"{path} is not a MIB circuit: it holds no dict")
    return content


def _check_sizes(path: Path) -> None:
    """Refuse what is not a zip file of torch's, and what would unpack to more than is read of any file."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CircuitFileError(f"{path} is not a file that torch.save writes: {error}") from None
    unpacked = sum(entry.file_size for entry in entries)
    pickles = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
    if unpacked > LARGEST_FILE or pickles > _LARGEST_PICKLE:
        raise CircuitFileError(f"{path} would unpack to {unpacked / 2**20:,.0f} MB, more than any circuit")


def _matrix(path: Path, content: dict[str, Any], key: str, dtype: torch.dtype, graph: Graph) -> Tensor:
    value, shape = content.get(key), tuple(graph.edges.shape)
    if not isinstance(value, Tensor) or tuple(value.shape) != shape or value.layout != torch.strided or value.is_complex():
        raise CircuitFileError(f"{path}: {key} is not a matrix of {shape[0]:,} × {shape[1]:,}")
    return value.detach().to(dtype)
