"""Edge-Pruning's JSON: the kept edges, as a list of [writer, reader].

Writers are ``a0.h1``, ``m0``, ``tok_embeds``, ``pos_embeds``; readers are ``a0.h1.q``, ``m0``, ``resid_post``. There are no
scores. For a model with learned positions, an edge from an unsplit embedding becomes one edge from each part.
"""

import json
import re
from pathlib import Path

from subcircuit.errors import CircuitFileError, GraphError
from subcircuit.graph import Circuit, Graph, Reader, Scope, Writer
from subcircuit.io import read_json
from subcircuit.report.exchange.target import Gathered, Target

_TOKENS, _POSITIONS = "tok_embeds", "pos_embeds"
_THEIRS = {"token_embed": _TOKENS, "pos_embed": _POSITIONS}
_END = "resid_post"
_INPUT = re.compile(r"(a\d+\.h\d+)\.([qkv])")


def write_edge_pruning(circuit: Circuit, path: Path) -> None:
    """Write the kept edges.

    Raises:
        GraphError: a scope that the format cannot hold.
    """
    graph = circuit.graph
    if graph.scope_text not in (str(Scope()), str(Scope(split_embeddings=True))):
        raise GraphError(
            f"format edge-pruning stores circuits at scope qkv with keys and values per query head, and this circuit is at {graph.scope_text}: "
            "search with --scope qkv and without --kv, or export to networkx, graphml or csv"
        )
    pairs = [[writer, _reader(edge.reader)] for edge in circuit.edges for writer in _writers(graph, edge.writer)]
    path.write_text(json.dumps(pairs), encoding="utf-8")


def read_edge_pruning(path: Path, target: Target) -> Circuit:
    """Read a circuit; the embedding is split if the model has learned positions, unless the scope is given.

    Raises:
        CircuitFileError: not such a file, or an edge that the graph does not have.
    """
    pairs = read_json(path)
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise CircuitFileError(f"{path} is not a list of [writer, reader], as Edge-Pruning writes it")
    graph = target.graph_or(Scope(split_embeddings=target.config.learned_positions))
    gathered = Gathered(path, graph)
    for writer, reader in _joined(path, graph, pairs):
        gathered.add(writer, _our_reader(reader), kept=True)
    return gathered.circuit()


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair)


def _writers(graph: Graph, writer: Writer) -> tuple[str, ...]:
    if writer.kind != "embed":
        return (str(writer),)
    if graph.scope.split_embeddings:
        return (_THEIRS[str(writer)],)
    return (_TOKENS, _POSITIONS) if graph.shape.learned_positions else (_TOKENS,)


def _reader(reader: Reader) -> str:
    return _END if reader.kind == "logits" else str(reader).replace("<", ".").removesuffix(">")


def _our_reader(name: str) -> str:
    if name == _END:
        return "logits"
    match = _INPUT.fullmatch(name)
    return f"{match[1]}<{match[2]}>" if match else name


def _joined(path: Path, graph: Graph, pairs: list[list[str]]) -> list[tuple[str, str]]:
    """The pairs with our names of writers; edges from the two parts of an unsplit embedding become one edge."""
    if graph.scope.split_embeddings:
        ours = {theirs: mine for mine, theirs in _THEIRS.items()}
        return [(ours.get(writer, writer), reader) for writer, reader in pairs]
    if graph.shape.learned_positions:
        tokens, positions = ({r for w, r in pairs if w == name} for name in (_TOKENS, _POSITIONS))
        if lonely := sorted(tokens ^ positions):
            raise CircuitFileError(
                f"{path}: {lonely[0][:80]!r} reads only token or only position embeddings: add --split-embeddings"
            )
        pairs = [[writer, reader] for writer, reader in pairs if writer != _POSITIONS]
    return [("embed" if writer == _TOKENS else writer, reader) for writer, reader in pairs]
