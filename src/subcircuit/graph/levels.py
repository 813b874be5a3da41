"""The relation between a model's graphs at two levels: each finer node and the coarser nodes that it is part of.

A neuron, an expert and a router's input are parts of their MLP, a head is part of its attention block, and a query input is
part of its head's input. Where heads share keys and values, the reader of a group is part of the inputs of all its heads. A
reader at one position is part of the reader at all positions.
"""

from collections.abc import Sequence
from typing import NoReturn

import torch
from jaxtyping import Bool
from torch import Tensor

from subcircuit.errors import GraphError
from subcircuit.graph.circuit import Circuit
from subcircuit.graph.graph import Graph
from subcircuit.units.nodes import Embed, Reader, Writer
from subcircuit.units.unit import Parts, same_or_whole


def resolve(circuit: Circuit, finer: Graph) -> Circuit:
    """The circuit on a finer graph whose edges are the parts of this circuit's edges.

    Raises:
        GraphError: ``finer`` belongs to another model, or is coarser somewhere.
    """
    rows, columns = parts_within(finer, circuit.graph)
    kept = circuit.kept.float()[rows] @ columns.T.float() > 0
    return Circuit(finer, kept & finer.edges)


def coarsen(circuit: Circuit, coarser: Graph) -> Circuit:
    """The circuit on a coarser graph that keeps every edge with a kept part; its score is the largest of these parts' scores.

    Raises:
        GraphError: ``coarser`` belongs to another model, or is finer somewhere.
    """
    rows, columns = parts_within(circuit.graph, coarser)
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


def parts_within(finer: Graph, coarser: Graph) -> tuple[Tensor, Bool[Tensor, "reader part"]]:
    """The coarser writer of each finer writer, and the coarser readers that each finer reader is part of.

    Raises:
        GraphError: as ``resolve``.
    """
    if coarser.positions not in ((None,), finer.positions):
        _not_part(finer.readers[0])
    rows = _known(finer.embeddings, same_or_whole(finer.embeddings, coarser.embeddings, str(Embed())), 0)
    readers = torch.zeros(len(finer.without_positions.readers), len(coarser.without_positions.readers), dtype=torch.bool)
    for unit, mine in zip(finer.units, finer.without_positions.readers_in, strict=True):
        theirs = coarser.unit_index.get(unit.name)
        if theirs is None:
            _not_part((*unit.writers, *unit.readers)[0])
        whole = coarser.units[theirs]
        if unit.writers:
            rows += _known(unit.writers, unit.writers_within(whole), coarser.writers_in[theirs][0])
        within = _known(unit.readers, unit.readers_within(whole), coarser.without_positions.readers_in[theirs][0])
        for reader, wholes in zip(mine, within, strict=True):
            readers[reader, wholes] = True
    n_positions = len(finer.positions)
    positions = (
        torch.eye(n_positions, dtype=torch.bool) if coarser.shape.positions else torch.ones(n_positions, 1, dtype=torch.bool)
    )
    columns = readers[:, None, :, None] & positions[:, None]
    return torch.tensor(rows)[:, 0], columns.flatten(2).flatten(0, 1)


def _known(nodes: Sequence[Reader | Writer], within: Parts, first: int) -> list[list[int]]:
    """Rows or columns of the coarser nodes that each node is part of. Every node must be part of one."""
    for node, wholes in zip(nodes, within, strict=True):
        if not wholes:
            _not_part(node)
    return [[first + whole for whole in wholes] for wholes in within]


def _not_part(node: Writer | Reader) -> NoReturn:
    raise GraphError(f"no node of the other graph contains {node}: the graph is of another model, or at a finer level there")
