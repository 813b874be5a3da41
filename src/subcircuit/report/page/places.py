"""Where the page draws a graph's nodes: a grid of layers by components, the same for all circuits of a graph.

Rows go up with the order of computation: the embedding, each layer's attention, its MLP half a row higher, the logits.
Columns are heads; MLPs have a column of their own. Parts of one component (neurons, experts, positions) share its cell.
"""

import re
from dataclasses import dataclass

from subcircuit.graph import Graph, Logits, Reader

_NAME = re.compile(r"(?P<block>[am])(?P<layer>\d+)(?:\.h(?P<head>\d+))?")


@dataclass(frozen=True)
class Place:
    """A node on the grid.

    Args:
        name: of the node.
        kind: what stands there: ``embed``, ``attention``, ``mlp`` or ``logits``.
        layer: None for embeddings and logits, which are bars below and above all layers.
        column: of a head; None for what has no column of heads, as MLPs and whole blocks of attention.
    """

    name: str
    kind: str
    layer: int | None = None
    column: int | None = None


def places(graph: Graph) -> list[Place]:
    """The place of every writer in order of computation, and that of the logits last."""
    return [*(_place(str(writer)) for writer in graph.writers), Place(str(Logits()), "logits")]


def kind_of(reader: Reader) -> str:
    """What an edge into a reader is coloured by: ``q``, ``k``, ``v``, ``attention``, ``mlp``, ``logits``."""
    name = str(reader)
    if part := re.search(r"<([qkv])>", name):
        return part[1]
    return {"a": "attention", "m": "mlp"}.get(name[0], "logits")


def nodes_of(graph: Graph, reader: Reader) -> list[int]:
    """The numbers of the nodes that a reader belongs to: several where heads share keys and values."""
    return list(graph.owners(reader)) or [len(graph.writers)]


def _place(name: str) -> Place:
    found = _NAME.match(name)
    if found is None:
        return Place(name, "embed")
    head = found["head"]
    kind = "attention" if found["block"] == "a" else "mlp"
    column = None if kind == "mlp" or head is None else int(head)
    return Place(name, kind, int(found["layer"]), column)
