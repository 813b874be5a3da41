"""One model's graphs at two levels: which nodes of the finer one are parts of which nodes of the coarser one.

A neuron, an expert and a router's input are parts of their MLP, a head of its attention block, a query input of its head's
input. Where heads share keys and values, the reader of a group is part of the inputs of all its heads. A reader at a place is
part of the reader at all of them.
"""

from typing import NoReturn

import torch
from jaxtyping import Bool
from torch import Tensor

from subcircuit.errors import GraphError
from subcircuit.graph.circuit import Circuit, owners
from subcircuit.graph.graph import Graph
from subcircuit.graph.nodes import MLP, Attention, Embed, Expert, Head, HeadInput, Neuron, Reader, RouterInput, Writer, at, bare


def resolve(circuit: Circuit, finer: Graph) -> Circuit:
    """The edges of a finer graph that are parts of a circuit's edges.

    Raises:
        GraphError: ``finer`` is of another model, or coarser somewhere.
    """
    rows, columns = _parts(finer, circuit.graph)
    kept = circuit.kept.float()[rows] @ columns.T.float() > 0
    return Circuit(finer, kept & finer.edges)


def coarsen(circuit: Circuit, coarser: Graph) -> Circuit:
    """The edges of a coarser graph of which a circuit has a part, each with the largest of its kept parts' scores.

    Raises:
        GraphError: ``coarser`` is of another model, or finer somewhere.
    """
    rows, columns = _parts(circuit.graph, coarser)
    n_rows = len(coarser.writers)

    def joined(values: Tensor, none: float) -> Tensor:
        by_row = torch.full((n_rows, values.shape[1]), none)
        by_row = by_row.scatter_reduce(0, rows[:, None].expand(values.shape), values, "amax")
        parts = [by_row[:, part] for part in columns.T]
        return torch.stack([part.amax(1) if part.shape[1] else torch.full((n_rows,), none) for part in parts], 1)

    kept = joined(circuit.kept.float(), 0.0) > 0
    scores = circuit.scores
    if scores is not None:
        sizes = scores.float().abs().nan_to_num(nan=0.0).masked_fill(~circuit.kept, 0.0)
        scores = joined(sizes, 0.0).masked_fill(~coarser.edges, float("nan"))
    return Circuit(coarser, kept, scores, circuit.record)


def _parts(finer: Graph, coarser: Graph) -> tuple[Tensor, Bool[Tensor, "reader part"]]:
    """The coarser writer of each finer writer, and which coarser readers each finer reader is part of."""
    rows = torch.tensor([coarser.writer_index[_whole(coarser, writer)] for writer in finer.writers])
    columns = torch.zeros(len(finer.readers), len(coarser.readers), dtype=torch.bool)
    for column, reader in enumerate(finer.readers):
        columns[column, _columns(finer, coarser, reader)] = True
    return rows, columns


def _columns(finer: Graph, coarser: Graph, reader: Reader) -> list[int]:
    """The coarser readers that a finer one is part of."""
    if coarser.places not in ((None,), finer.places):
        _not_part(reader)
    return [
        coarser.reader_index[at(whole, reader.place if coarser.shape.places else None)]
        for whole in _wholes(finer.unplaced, coarser.unplaced, bare(reader))
    ]


def _whole(coarser: Graph, writer: Writer) -> Writer:
    candidates: list[Writer] = [writer]
    match writer:
        case Neuron(layer) | Expert(layer):
            candidates.append(MLP(layer))
        case Head(layer):
            candidates.append(Attention(layer))
        case Embed():
            candidates.append(Embed())
        case _:
            pass
    known = [candidate for candidate in candidates if candidate in coarser.writer_index]
    return known[0] if known else _not_part(writer)


def _wholes(finer: Graph, coarser: Graph, reader: Reader) -> list[Reader]:
    known: list[Reader] = [reader] if reader in coarser.reader_index else []
    match reader:
        case Neuron(layer) | Expert(layer) | RouterInput(layer):
            known = known or [MLP(layer)]
        case HeadInput(layer, _, part):
            heads, each = _heads(finer, reader), range(finer.shape.n_heads)
            inputs = dict.fromkeys(HeadInput(layer, head, p) for head in each for p in (part, None))
            # by whose inputs they are, not by name: a group is called by its own number, and a head by another
            known = [r for r in inputs if r in coarser.reader_index and heads & _heads(coarser, r)] or [Attention(layer)]
        case _:
            pass
    return known if known and known[0] in coarser.reader_index else _not_part(reader)


def _heads(graph: Graph, reader: Reader) -> set[int]:
    """The heads that a reader is an input of."""
    return {node.head for index in owners(graph, reader) if isinstance(node := graph.writers[index], Head)}


def _not_part(node: Writer | Reader) -> NoReturn:
    raise GraphError(f"{node} is part of no node of the other graph: it is of another model, or resolved more finely there")
