"""A clean run and its ablation for gradient methods: the streams, and each writer's difference between the two runs.

Memory: writers × rows × d_model for the differences, only at the rows where something can change and matter (``rows.py``).
The two runs are computed unit by unit.

Gradients of a loss with respect to every reader's input, at a run of the whole model.

With all edges kept, the readers of a layer find the same residual stream x. A head's queries read W_Q norm(x), so

    dL/d input(a.h<q>) = J(x)ᵀ W_Qᵀ dL/d(W_Q norm(x)),        J the Jacobian of the norm at x,

and likewise for keys and values, so split inputs need not be stored. Keys and values are first separated per query head,
as the masked forward pass defines them (``forward.py``). All of a layer's writes go to the same readers, so one gradient
of the stream, carried backwards, serves all its writers:

    dL/d stream before = dL/d stream after + Σ over the unit's readers of dL/d input(reader)

Cost: one more forward pass (only the streams between layers are stored, so the backward pass runs each layer again) and
one backward pass through inputs alone. Memory: the streams, and the readers' gradients of one unit: one d_model vector
per neuron where an MLP is resolved into neurons.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.engine.plain_run import embedding_values, unit_runs
from subcircuit.graph import Graph
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer
from subcircuit.units import Rows, Stream
from subcircuit.units.gradients import GRADIENTS, Rules, widened

Streams: TypeAlias = tuple[Float[Tensor, "batch pos d_model"], ...]
"""The residual stream at each unit of a graph, the logits last."""


@dataclass(frozen=True, eq=False)
class UnitGradient:
    """Gradients at one unit.

    Args:
        readers: columns of the unit's readers, each position by position.
        at_readers: gradients with respect to each reader's input, at all positions.
        written: gradient with respect to the value of each of the unit's writers; zero at the logits, which write nothing.
    """

    readers: tuple[int, ...]
    at_readers: Float[Tensor, "reader batch pos d_model"]
    written: Float[Tensor, "batch pos d_model"]


@torch.no_grad()
def streams_from(model: Transformer, graph: Graph, stream: Float[Tensor, "batch pos d_model"], first: int = 0) -> Streams:
    """The streams of a run of the model on any embedding, or from a later unit on.

    Args:
        stream: the stream that the first unit reads.
        first: its index among the graph's units; the first one of units that read at the same time.
    """
    found, carried = [], Stream(stream)
    for unit in graph.units[first:]:
        found.append(carried.read_by(unit))
        if unit.writers:
            carried.add(unit.adds(model, found[-1]))
    return tuple(found)


@torch.no_grad()
def reader_gradients(
    model: Transformer,
    graph: Graph,
    streams: Streams,
    at_logits: Float[Tensor, "batch pos d_model"],
    rules: Rules = GRADIENTS,
) -> Iterator[UnitGradient]:
    """Gradients of a loss at every unit, from the logits backwards.

    Args:
        streams: the streams of the run at which the loss is differentiated.
        at_logits: gradient of the loss with respect to the last stream.
        rules: how gradients pass through nonlinear functions.
    """
    after = widened(at_logits)
    yield UnitGradient(graph.readers_in[-1], after[None], torch.zeros_like(after))
    carried = Stream(after)
    for index in reversed(range(len(graph.units) - 1)):
        unit, written = graph.units[index], carried.read_by(graph.units[index])
        if unit.layer == rules.dropped:
            gradients = torch.zeros_like(after).expand(len(unit.readers), *after.shape)
        else:
            gradients = unit.gradients(model, streams[index], written, rules)
        yield UnitGradient(graph.readers_in[index], gradients, written)
        carried.add(gradients.sum(0))


@dataclass(frozen=True, eq=False)
class Contrast:
    """A clean run and its ablation on a batch of prompts, up to the last answer.

    Args:
        differences: ablated − clean value of every writer, in float32 at least.
        streams: the residual stream at each unit in the clean run.
        clean_embedding, ablated_embedding: the sum of the embedding's writes in each run.
        positions: index of each row's position, if the graph distinguishes positions.
    """

    model: Transformer
    graph: Graph
    rows: Rows
    differences: Float[Tensor, "writer row d_model"]
    streams: Streams
    clean_embedding: Float[Tensor, "batch pos d_model"]
    ablated_embedding: Float[Tensor, "batch pos d_model"]
    positions: Int[Tensor, " row"] | None = None

    def at_rows(self, x: Float[Tensor, "*reader batch pos d_model"]) -> Float[Tensor, "*reader row d_model"]:
        """Values at the rows where something can change and matter."""
        return x.flatten(-3, -2)[..., self.rows.changed.flat, :]

    def at_positions(self, x: Float[Tensor, "*writer row d_model"]) -> Float[Tensor, "*writer batch pos d_model"]:
        """The inverse of ``at_rows``: zero at all other rows."""
        batch, n_pos = self.clean_embedding.shape[:2]
        spread = x.new_zeros(*x.shape[:-2], batch * n_pos, x.shape[-1])
        return spread.index_copy(-2, self.rows.changed.flat, x).unflatten(-2, (batch, n_pos))

    def read_by(self, readers: tuple[int, ...]) -> int:
        """How many writers a unit with these readers reads; they are the first ones in order."""
        return self.graph.n_read(readers[0])

    def effects(self, gradient: UnitGradient, writers: slice | None = None) -> Float[Tensor, "writer reader"]:
        """First-order effects of cutting each edge into a unit: (ablated − clean) · gradient, summed over examples.

        If the graph distinguishes positions, the effect of an edge at a position sums over that position's rows.

        Args:
            gradient: at the unit; gradients of several runs, concatenated along the batch axis, are summed.
            writers: the writers to compute; by default all that the unit reads.
        """
        writers = slice(self.read_by(gradient.readers)) if writers is None else writers
        at_readers = gradient.at_readers.unflatten(1, (-1, len(self.clean_embedding)))
        at_readers = self.at_rows(at_readers[:, 0] if at_readers.shape[1] == 1 else at_readers.sum(1))
        differences = self.differences[writers]
        if self.positions is None:
            return (differences.flatten(1) @ at_readers.flatten(1).T).double()
        rows = [(self.positions == position).nonzero().flatten() for position in range(len(self.graph.positions))]
        effects = [differences[:, here].flatten(1) @ at_readers[:, here].flatten(1).T for here in rows]
        return torch.stack(effects, -1).flatten(1).double()


@torch.no_grad()
def contrast(
    model: Transformer,
    graph: Graph,
    clean: Tokens,
    ablated: Tokens | Float[Tensor, "writer batch pos d_model"],
    first_change: list[int],
    answer_example: Int[Tensor, " answer"],
    answer_pos: Int[Tensor, " answer"],
) -> Contrast:
    """Run clean and ablated prompts side by side.

    Args:
        ablated: the values that cut edges carry, or the prompts whose run supplies them.
        first_change: per example, the first position at which clean and ablated values may differ.
        answer_example, answer_pos: example and position at which the metric reads each answer's logits.
    """
    both_ways = None if model.config.causal else clean.ids.shape[1]
    rows = Rows.of(first_change, answer_example.tolist(), answer_pos.tolist(), model.device, both_ways)
    tokens = clean.until(rows.n_pos)
    embedding, cuts = embedding_values(model, graph, tokens), _cuts(model, graph, ablated, rows.n_pos)
    differences, streams = list[Tensor](), list[Tensor]()

    def compare(values: Float[Tensor, "writer batch pos d_model"], cut: Float[Tensor, "writer batch pos d_model"]) -> None:
        differences.append((widened(cut) - widened(values)).flatten(1, 2)[:, rows.changed.flat])

    ablated_embedding = next(cuts)
    compare(embedding, ablated_embedding)
    for found in unit_runs(model, graph, embedding):
        streams.append(found.stream)
        if found.run is not None:
            compare(found.run.writes, next(cuts))
    positions = (
        clean.positions[:, : rows.n_pos].flatten()[rows.changed.flat]
        if graph.shape.positions and clean.positions is not None
        else None
    )
    assert not graph.shape.positions or positions is not None, "prompts of a graph with positions go through tasks.with_positions"
    return Contrast(
        model, graph, rows, torch.cat(differences), tuple(streams), embedding.sum(0), ablated_embedding.sum(0), positions
    )


def _cuts(
    model: Transformer, graph: Graph, ablated: Tokens | Float[Tensor, "writer batch pos d_model"], n_pos: int
) -> Iterator[Float[Tensor, "writer batch pos d_model"]]:
    """The values that cut edges carry: first the embedding's, then those of each unit."""
    if isinstance(ablated, Tokens):
        embedding = embedding_values(model, graph, ablated.until(n_pos))
        yield embedding
        yield from (found.run.writes for found in unit_runs(model, graph, embedding) if found.run is not None)
        return
    yield from ablated[:, :, :n_pos].split([len(graph.embeddings), *map(len, graph.writers_in[:-1])])
