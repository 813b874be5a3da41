"""A clean run beside its ablation, as gradient methods need them: streams, and how far apart each writer's values are.

Memory: writers × rows × d_model for the differences, at the rows where something can change and matter alone
(``rows.py``); the two runs are taken unit by unit.

Gradients of a loss with respect to every reader's input, at a run of the whole model.

With all edges kept, the readers of a layer find the same residual stream x. A head's queries read W_Q norm(x), so

    dL/d input(a.h<q>) = J(x)ᵀ W_Qᵀ dL/d(W_Q norm(x)),        J the Jacobian of the norm at x,

and likewise for keys and values: split inputs need never be there. Keys and values are taken apart per query head
first, as the masked forward pass defines them (``forward.py``). What is written by a layer's nodes goes to the same
readers, so one gradient of the stream, carried backwards, serves all of them:

    dL/d stream before = dL/d stream after + Σ over the unit's readers of dL/d input(reader)

Cost: one more forward pass (layers are run again when their turn comes; only the streams between them are kept) and
one backward pass through inputs alone. Memory: the streams, and the readers' gradients of one unit, a vector of d_model
for every neuron where an MLP is resolved into them.
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
"""What readers find at each unit of a graph, the logits last."""


@dataclass(frozen=True, eq=False)
class UnitGradient:
    """Gradients at one unit.

    Args:
        readers: columns of the unit's readers, each position by position.
        at_readers: with respect to the input of each reader, at all positions.
        written: with respect to what each of the unit's writers writes; zero at the logits, which write nothing.
    """

    readers: tuple[int, ...]
    at_readers: Float[Tensor, "reader batch pos d_model"]
    written: Float[Tensor, "batch pos d_model"]


@torch.no_grad()
def streams_from(model: Transformer, graph: Graph, stream: Float[Tensor, "batch pos d_model"], first: int = 0) -> Streams:
    """Run the model on any embedding, or from a later unit on.

    Args:
        stream: what the first unit reads.
        first: its index among the graph's units; the first of those that read at once.
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
        streams: of the run at which to differentiate.
        at_logits: gradient of the loss with respect to the last stream.
        rules: how gradients pass what is not linear.
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
        streams: what readers find at each unit in the clean run.
        clean_embedding, ablated_embedding: all that the embedding writes.
        positions: index of each row's position, where the graph tells positions apart.
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
        """How many writers a unit of these readers reads: the first so many."""
        return self.graph.n_read(readers[0])

    def effects(self, gradient: UnitGradient, writers: slice | None = None) -> Float[Tensor, "writer reader"]:
        """First-order effects of cutting each edge into a unit: (ablated − clean) · gradient, summed over examples.

        Where the graph tells positions apart, the sum of an edge at a position is over the rows that are there.

        Args:
            gradient: at the unit; those of several runs after each other are added up.
            writers: one row for each of these; by default for all that the unit reads.
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
        ablated: what cut edges carry, or the prompts whose run they carry it from.
        first_change: per example, the first position at which clean and ablated values may differ.
        answer_example, answer_pos: where the metric reads logits.
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
    """What cut edges carry: from the embedding, and from unit after unit."""
    if isinstance(ablated, Tokens):
        embedding = embedding_values(model, graph, ablated.until(n_pos))
        yield embedding
        yield from (found.run.writes for found in unit_runs(model, graph, embedding) if found.run is not None)
        return
    yield from ablated[:, :, :n_pos].split([len(graph.embeddings), *map(len, graph.writers_in[:-1])])
