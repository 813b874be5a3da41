"""The masked forward pass: run a whole circuit, every reader on an input of its own.

    input(r) = Σ_w  kept[w, r] · value(w) + (1 − kept[w, r]) · ablated(w)   (+ biases that belong to no writer)

Values are those of the circuit itself: a writer whose inputs are cut writes something else than in the model. The
mask may hold any real numbers. Gradients flow to mask and ablated values, unit by unit from the logits backwards:

    dL/d kept[w, r]    = (value(w) − ablated(w)) · dL/d input(r)
    dL/d value(w)      = Σ_r  kept[w, r] · dL/d input(r)
    dL/d ablated(w)    = Σ_r  (1 − kept[w, r]) · dL/d input(r)

Cost: every reader is normalised and projected on its own, about three plain forward passes, and one matrix product
per unit for the sums, which grow with writers × readers. With gradients, units are run again when their turn comes, so
that memory is that of all writers' values and all readers' inputs once, and of one unit's inner workings.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from subcircuit.graph import MLP, Attention, Graph, Logits, Neuron
from subcircuit.graph.graph import Unit
from subcircuit.model.components import unembed
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer, feed_forward
from subcircuit.run.backward import widened
from subcircuit.run.heads import PARTS, attend
from subcircuit.run.mixtures import mixture_writes, normed
from subcircuit.run.mlps import activations, shares, unit_bias, write_out
from subcircuit.run.values import embedding_values

# every neuron has an input of its own: those of a whole MLP would be the largest tensor of a run
_NEURONS_AT_ONCE = 128


def run_circuit(
    model: Transformer,
    graph: Graph,
    kept: Float[Tensor, "*#batch writer reader"] | Bool[Tensor, "*#batch writer reader"],
    tokens: Tokens,
    ablated: Float[Tensor, "writer batch pos d_model"],
) -> Float[Tensor, "batch pos vocab"]:
    """Logits of a circuit on clean prompts.

    Args:
        kept: 1 where an edge is kept, 0 where it is cut; values at places without an edge are ignored. One circuit for
            all prompts, or one for each.
        tokens: the clean prompts.
        ablated: what cut edges carry, see ``ablated_values``.
    """
    return unembed(model.config, model.weights, last_stream(model, graph, kept, tokens, ablated))


def last_stream(
    model: Transformer,
    graph: Graph,
    kept: Float[Tensor, "*#batch writer reader"] | Bool[Tensor, "*#batch writer reader"],
    tokens: Tokens,
    ablated: Float[Tensor, "writer batch pos d_model"],
) -> Float[Tensor, "batch pos d_model"]:
    """The input of the ``logits`` reader in a circuit, not yet normalised; arguments as in ``run_circuit``."""
    # gradients of masks in float32 at least, whatever the model's precision
    mask = kept.to(model.device, torch.promote_types(model.dtype, torch.float32))
    return _MaskedRun.apply(mask[None] if mask.ndim == 2 else mask, ablated, model, graph, tokens)


@dataclass(frozen=True, eq=False)
class _Place:
    """One unit in the order of computation, or some neurons of it: what it reads and where it writes.

    Args:
        n_read: it reads the first so many writers.
        readers: its columns.
        writers: its rows; an empty slice for the logits.
    """

    unit: Unit
    n_read: int
    readers: slice
    writers: slice


def _places(graph: Graph) -> Iterator[_Place]:
    for index, unit in enumerate(graph.units):
        readers, writers = graph.readers_in[index], graph.writers_in[index]
        # neurons of a shared post-norm are one
        neurons = isinstance(unit, MLP) and graph.has_neurons(unit.layer)
        some = _NEURONS_AT_ONCE if neurons and not graph.shape.coupled_heads else len(readers)
        for first in range(0, len(readers), some):
            rows = writers[first : first + some] if neurons else writers
            columns = readers[first : first + some]
            yield _Place(
                unit,
                graph.n_read(columns[0]),
                slice(columns[0], columns[-1] + 1),
                slice(rows[0], rows[-1] + 1) if rows else slice(0, 0),
            )


@dataclass(frozen=True, eq=False)
class _Sums:
    """The sums that readers read, for masks and for what has been written so far, and their gradients.

    Examples that share a mask are summed in one matrix product: all of them, or each on its own.

    Args:
        mask: of all examples, or of each of them.
        differences: value − ablated value of every writer, filled as units run.
    """

    mask: Float[Tensor, "#batch writer reader"]
    differences: Float[Tensor, "writer batch pos d_model"]

    def read(self, place: _Place) -> Float[Tensor, "reader batch pos d_model"]:
        """Σ kept · (value − ablated) at the readers of a unit."""
        kept = self.mask[:, : place.n_read, place.readers].to(self.differences.dtype)
        read = kept.mT @ self._by_mask(self.differences[: place.n_read])
        return read.transpose(0, 1).reshape(-1, *self.differences.shape[1:])

    def at_mask(
        self, place: _Place, at_readers: Float[Tensor, "reader batch pos d_model"]
    ) -> Float[Tensor, "#batch writer reader"]:
        """Gradients at the masks of a unit's edges from those at its readers."""
        return widened(self._by_mask(self.differences[: place.n_read])) @ self._by_mask(at_readers).mT

    def add_at_values(
        self,
        place: _Place,
        at_readers: Float[Tensor, "reader batch pos d_model"],
        at_values: Float[Tensor, "writer batch pos d_model"],
    ) -> None:
        """Add what a unit's readers pass on to the gradients at the values that they read."""
        self._by_mask(at_values[: place.n_read]).baddbmm_(self.mask[:, : place.n_read, place.readers], self._by_mask(at_readers))

    def _by_mask(self, x: Float[Tensor, "row batch pos d_model"]) -> Float[Tensor, "#batch row d_in"]:
        return x.view(len(x), len(self.mask), -1).transpose(0, 1)


def _run(
    model: Transformer,
    graph: Graph,
    sums: _Sums,
    tokens: Tokens,
    ablated: Float[Tensor, "writer batch pos d_model"],
) -> Iterator[Float[Tensor, "reader batch pos d_model"]]:
    """The inputs of each unit's readers, from the first layer to the logits; fills the differences."""
    embedding = embedding_values(model, graph, tokens)
    torch.sub(embedding, ablated[: len(embedding)], out=sums.differences[: len(embedding)])
    base, biases, n_based = torch.zeros_like(ablated[0]), _biases(model, graph), 0
    for place in _places(graph):
        base = base + ablated[n_based : place.n_read].sum(0) + biases[n_based : place.n_read].sum(0)
        n_based = place.n_read
        inputs = sums.read(place) + base
        yield inputs
        if not isinstance(place.unit, Logits):
            writes = _writes(model, graph, place, inputs)
            torch.sub(writes, ablated[place.writers], out=sums.differences[place.writers])


def _biases(model: Transformer, graph: Graph) -> Float[Tensor, "writer d_model"]:
    """The biases that join the stream together with a writer: with the first of its unit."""
    biases = torch.zeros(len(graph.writers), model.config.d_model, device=model.device, dtype=model.dtype)
    for index, unit in enumerate(graph.units):
        bias = unit_bias(model, graph, unit)
        if bias is not None:
            biases[graph.writers_in[index][0]] = bias
    return biases


def _writes(
    model: Transformer, graph: Graph, place: _Place, inputs: Float[Tensor, "reader batch pos d_model"]
) -> Float[Tensor, "writer batch pos d_model"]:
    """What a unit's writers write, given the inputs of its readers."""
    if isinstance(place.unit, MLP):
        return _mlp_writes(model, graph, place, place.unit.layer, inputs)
    assert isinstance(place.unit, Attention)
    layer, heads = place.unit.layer, range(model.config.n_heads)
    columns = ([graph.reader_of(layer, head, part) - place.readers.start for head in heads] for part in PARTS)
    q, k, v = (_take(inputs, each) for each in columns)
    writes = attend(model, layer, q, k, v).writes
    return writes.sum(0, keepdim=True) if graph.is_block(layer) else writes


def _mlp_writes(
    model: Transformer, graph: Graph, place: _Place, layer: int, inputs: Float[Tensor, "reader batch pos d_model"]
) -> Float[Tensor, "writer batch pos d_model"]:
    if graph.has_experts(layer):
        router, *experts = normed(model, layer, inputs)
        return mixture_writes(model, graph, layer, router, experts)
    if not graph.has_neurons(layer):
        return feed_forward(model, layer, inputs)
    first = place.readers.start - graph.reader_index[Neuron(layer, 0)]
    which = slice(first, first + len(inputs))
    fired = activations(model, layer, inputs, which)
    return shares(model, layer, fired) if graph.shape.coupled_heads else write_out(model, layer, fired, which)


def _take(inputs: Float[Tensor, "reader batch pos d_model"], columns: list[int]) -> Float[Tensor, "#head batch pos d_model"]:
    """The input of each head, or one that all of them share; without a copy where they lie together."""
    first, last = columns[0], columns[-1] + 1
    together = columns == list(range(first, last)) or len(set(columns)) == 1
    return inputs[first:last] if together else inputs[columns]


class _MaskedRun(torch.autograd.Function):
    """``last_stream``, with a backward pass of its own: autograd would keep all writers' values once for every unit."""

    @staticmethod
    def forward(
        ctx: Any,
        mask: Float[Tensor, "#batch writer reader"],
        ablated: Float[Tensor, "writer batch pos d_model"],
        model: Transformer,
        graph: Graph,
        tokens: Tokens,
    ) -> Float[Tensor, "batch pos d_model"]:
        sums = _Sums(mask, torch.empty_like(ablated, memory_format=torch.contiguous_format))
        inputs = deque(_run(model, graph, sums, tokens, ablated), maxlen=None if any(ctx.needs_input_grad) else 1)
        ctx.sums, ctx.inputs, ctx.model, ctx.graph = sums, inputs, model, graph
        return inputs[-1][0]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the signature
        ctx: Any, at_logits: Float[Tensor, "batch pos d_model"]
    ) -> tuple[Tensor | None, ...]:
        sums, graph = ctx.sums, ctx.graph
        at_mask, at_units = torch.zeros_like(sums.mask), []
        at_values = torch.zeros_like(sums.differences, dtype=sums.mask.dtype)
        for place, inputs in zip(reversed(list(_places(graph))), reversed(ctx.inputs), strict=True):
            at_readers = widened(at_logits[None])
            if not isinstance(place.unit, Logits):
                at_readers = widened(_pull_back(ctx.model, graph, place, inputs, at_values[place.writers]))
            at_mask[:, : place.n_read, place.readers] = sums.at_mask(place, at_readers)
            sums.add_at_values(place, at_readers, at_values)
            at_units.append(at_readers.sum(0))
        at_ablated = _at_ablated(graph, at_units[::-1], at_values) if ctx.needs_input_grad[1] else None
        return at_mask, at_ablated, None, None, None


def _pull_back(
    model: Transformer,
    graph: Graph,
    place: _Place,
    inputs: Float[Tensor, "reader batch pos d_model"],
    at_writes: Float[Tensor, "writer batch pos d_model"],
) -> Float[Tensor, "reader batch pos d_model"]:
    """Gradients at a unit's readers from those at what it writes; the unit runs again."""
    leaf = inputs.detach().requires_grad_()
    with torch.enable_grad():
        writes = _writes(model, graph, place, leaf)
    return torch.autograd.grad(writes, leaf, at_writes.to(writes.dtype))[0]


def _at_ablated(
    graph: Graph,
    at_units: list[Float[Tensor, "batch pos d_model"]],
    at_values: Float[Tensor, "writer batch pos d_model"],
) -> Float[Tensor, "writer batch pos d_model"]:
    """Σ (1 − kept) · gradient over the readers of each writer: that of all of them without what the kept ones have."""
    n_read = torch.tensor([place.n_read for place in _places(graph)], device=at_values.device)
    reads = torch.arange(len(graph.writers), device=at_values.device)[:, None] < n_read
    return torch.einsum("wu,ubpd->wbpd", reads.to(at_values.dtype), torch.stack(at_units)) - at_values
