"""In which order ACDC visits readers and cuts edges."""

from typing import Literal, TypeAlias

from subcircuit.graph import Graph, Head, HeadInput, Writer

HeadOrder: TypeAlias = Literal["descending", "ascending"]

# kinds as the authors' program takes them; a head with a single input has only one
_PARTS = {"v": 0, "k": 1, "q": 2, None: 0}


def cutting_order(graph: Graph, heads: HeadOrder) -> tuple[int, ...]:
    """Writers so that the last is cut first: by computation, heads of a layer from high to low or from low to high."""
    index = graph.writer_index

    def place(writer: Writer) -> tuple[int, int]:
        if isinstance(writer, Head) and heads == "ascending":
            return index[Head(writer.layer, 0)], -writer.head
        return (index[Head(writer.layer, 0)], writer.head) if isinstance(writer, Head) else (index[writer], 0)

    return tuple(index[w] for w in sorted(graph.writers, key=place))


def visiting_order(graph: Graph, unit: int, heads: HeadOrder) -> tuple[int, ...]:
    """A unit's readers as they are visited: v, k, q, and heads within each from high to low or from low to high.

    Neurons and experts go from high to low, the router after them; what is told apart by place from the last place to the first.
    """

    def place(reader: int) -> tuple[int, int, bool, int]:
        node = graph.readers[reader]
        if not isinstance(node, HeadInput):
            return 0, 0, False, -reader
        # a head with a single input goes before the values of a group that has its number
        return _PARTS[node.part], node.head if heads == "ascending" else -node.head, node.part is not None, -reader

    return tuple(sorted(graph.readers_in[unit], key=place))
