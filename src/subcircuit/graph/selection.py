"""Selections: rules that turn a score per edge into a circuit.

    Threshold(t, by)    the edges of size at least t
    TopN(n, by)         the n largest edges
        Greedy(n, by)       n edges grown backwards from the logits: always the largest edge into a node that is already
                            included, so that every edge has a path to the logits (Hanna et al. 2024, arXiv 2403.17806)

The size of an edge is its score (``by="signed"``: edges whose cut worsens the behaviour come first) or its magnitude
(``by="absolute"``: edges whose cut changes it either way). The two give different circuits, so ``by`` has no default. Among
edges of the same size the earlier one comes first: by reader, then by writer, in order of computation. Edges that lie on
no path from an embedding stay; ``Circuit.prune`` drops them.
"""

from dataclasses import asdict, dataclass
from heapq import heapify, heappop, heappush
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.errors import GraphError, NumericalError, SettingsError, UnknownNameError
from subcircuit.graph.circuit import Circuit, inputs_of
from subcircuit.graph.graph import Graph

By: TypeAlias = Literal["signed", "absolute"]


@dataclass(frozen=True, slots=True)
class Threshold:
    """Edges whose size is at least ``least``."""

    least: float
    by: By

    def __post_init__(self) -> None:
        _check_by(self.by)
        if self.least != self.least:
            raise SettingsError("the threshold is NaN: it must be a number")


@dataclass(frozen=True, slots=True)
class TopN:
    """The ``n`` largest edges."""

    n: int
    by: By

    def __post_init__(self) -> None:
        _check_by(self.by)
        _check_n(self.n)


@dataclass(frozen=True, slots=True)
class Greedy:
    """``n`` edges grown backwards from the logits, always along the largest edge."""

    n: int
    by: By

    def __post_init__(self) -> None:
        _check_by(self.by)
        _check_n(self.n)


Selection: TypeAlias = Threshold | TopN | Greedy

_NAMES: dict[type[Selection], str] = {Threshold: "threshold", TopN: "top-n", Greedy: "greedy"}


def ranking_named(name: str) -> By:
    """The ranking of this name: "signed" or "absolute".

    Raises:
        UnknownNameError: no ranking has this name.
    """
    known: tuple[By, ...] = get_args(By)
    if name not in known:
        raise UnknownNameError("by", name, known)
    return known[known.index(name)]


def selection_of(asked: Selection | int | None, graph: Graph) -> Selection:
    """A selection as given, or ``TopN`` by magnitude from a number of edges; None selects 1 % of the edges.

    Raises:
        SettingsError: the argument is neither a selection nor a number, or the graph has fewer edges.
    """
    if asked is None:
        asked = max(1, graph.n_edges // 100)
    if isinstance(asked, int) and not isinstance(asked, bool):
        asked = TopN(asked, "absolute")
    if not isinstance(asked, Selection):
        raise SettingsError(
            f"selection is {asked!r}: it must be a number of edges such as 200, or TopN(200, 'absolute'), Threshold(0.01, 'signed') or "
            "Greedy(200, 'absolute')."
        )
    check_selection(graph, asked)
    return asked


def selection_record(selection: Selection) -> dict[str, Any]:
    """A selection as JSON values: its kind, its number or threshold, and its ``by``."""
    return {"select": _NAMES[type(selection)], **asdict(selection)}


def check_selection(graph: Graph, selection: Selection) -> None:
    """Check that the graph has at least as many edges as the selection takes.

    Raises:
        SettingsError: the graph has fewer edges.
    """
    n = 0 if isinstance(selection, Threshold) else selection.n
    if n > graph.n_edges:
        raise SettingsError(f"the number of edges is {n:,}, and the graph has only {graph.n_edges:,}: choose at most that many")


def select_edges(graph: Graph, scores: Float[Tensor, "writer reader"], selection: Selection) -> Circuit:
    """The circuit of the selected edges, with the scores.

    Args:
        graph: the graph whose edges are scored.
        scores: a number per edge; values at pairs without an edge are ignored.
        selection: the rule that chooses the edges.

    Raises:
        GraphError: the scores do not fit the graph.
        NumericalError: an edge's score is NaN or infinite; names the edge.
        SettingsError: more edges are asked for than the graph has.
    """
    check_scores(graph, scores)
    check_selection(graph, selection)
    sizes = scores.abs() if selection.by == "absolute" else scores
    match selection:
        case Threshold(least):
            kept = graph.edges & (sizes >= least).to(graph.edges.device)
        case TopN(n):
            kept = _largest(graph, sizes, n)
        case Greedy(n):
            kept = _grown(graph, sizes, n)
    return Circuit(graph, kept, scores.masked_fill(~graph.edges, float("nan")))


def check_scores(graph: Graph, scores: Float[Tensor, "writer reader"]) -> None:
    """Check that every edge has a finite score.

    Raises:
        GraphError: the scores do not fit the graph.
        NumericalError: an edge's score is NaN or infinite; names the edge.
    """
    expected, given = tuple(graph.edges.shape), tuple(scores.shape)
    if given != expected:
        raise GraphError(f"the scores have shape {given}, and the graph needs {expected} (writers, readers)")
    bad = (graph.edges & ~scores.isfinite()).T.nonzero().tolist()
    if bad:
        reader, writer = bad[0]
        edge, value = graph.edge(writer, reader), float(scores[writer, reader])
        others = f", and {len(bad) - 1} more edges have none" if len(bad) > 1 else ""
        raise NumericalError(
            f"the score of {edge} is {value}{others}, so the edges cannot be ranked. Use float32, and check the model's weights for NaN."
        )


def _largest(graph: Graph, sizes: Float[Tensor, "writer reader"], n: int) -> Bool[Tensor, "writer reader"]:
    # transposed, so that a stable sort leaves ties in the order of edges: by reader, then by writer
    cells = graph.edges.T.nonzero()
    order = sizes.T[cells[:, 0], cells[:, 1]].sort(descending=True, stable=True).indices[:n]
    kept = torch.zeros_like(graph.edges)
    kept[cells[order, 1], cells[order, 0]] = True
    return kept


def _grown(graph: Graph, sizes: Float[Tensor, "writer reader"], n: int) -> Bool[Tensor, "writer reader"]:
    reads = inputs_of(graph)
    size, kept = sizes.tolist(), torch.zeros_like(graph.edges)
    joined = set(graph.readers_in[-1])

    def edges_into(reader: int) -> list[tuple[float, int, int]]:
        return [(-size[writer][reader], reader, writer) for writer in graph.edges[:, reader].nonzero().flatten().tolist()]

    frontier = [edge for reader in joined for edge in edges_into(reader)]
    heapify(frontier)
    for _ in range(n):
        _, reader, writer = heappop(frontier)
        kept[writer, reader] = True
        for opened in reads.get((writer, reader % len(graph.positions)), ()):
            if opened not in joined:
                joined.add(opened)
                for edge in edges_into(opened):
                    heappush(frontier, edge)
    return kept


def _check_n(n: int) -> None:
    if n < 0:
        raise SettingsError(f"the number of edges is {n}: it must be at least 0")


def _check_by(by: str) -> None:
    if by not in get_args(By):
        raise SettingsError(f"by is {by!r}: choose 'signed' or 'absolute'")
