"""The masked forward pass: run a whole circuit, with a separate input for every reader.

    input(r) = Σ_w  kept[w, r] · value(w) + (1 − kept[w, r]) · ablated(w)   (+ biases that belong to no writer)

Values are those of the circuit itself: a writer with cut inputs writes a different value than in the model. The mask may
hold any real numbers. Gradients reach the mask and the ablated values, unit by unit from the logits backwards:

    dL/d kept[w, r]    = (value(w) − ablated(w)) · dL/d input(r)
    dL/d value(w)      = Σ_r  kept[w, r] · dL/d input(r)
    dL/d ablated(w)    = Σ_r  (1 − kept[w, r]) · dL/d input(r)

Cost: every reader is normalised and projected separately, about three plain forward passes, plus one matrix product per
unit for the sums, which grow with writers × readers. Without gradients, units without a kept outgoing edge are skipped,
so small circuits cost less. With gradients, the backward pass runs units again, unless their writes do not reach the
logits. Memory: all writers' values and all readers' inputs once, and the intermediate values of one unit.

``last_stream_of_nodes`` masks nodes instead of edges: it mixes a writer's value with its ablated value for all readers at once.

    written(w) = kept[w] · value(w) + (1 − kept[w]) · ablated(w)

This equals ``last_stream`` with ``kept[w, r] = kept[w]`` for every reader, and costs as little as a plain forward pass
because readers of a layer share one input. Gradients reach the mask and the ablated values.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from subcircuit.engine.linear_read import Sums, stretches, sums
from subcircuit.engine.plain_run import embedding_values
from subcircuit.graph import Graph
from subcircuit.model.components import unembed
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer
from subcircuit.units import Stream, Unit
from subcircuit.units.gradients import widened


def run_circuit(
    model: Transformer,
    graph: Graph,
    kept: Float[Tensor, "*#batch writer reader"] | Bool[Tensor, "*#batch writer reader"],
    tokens: Tokens,
    ablated: Float[Tensor, "writer batch pos d_model"],
) -> Float[Tensor, "batch pos vocab"]:
    """Logits of a circuit on clean prompts.

    Args:
        kept: 1 where an edge is kept, 0 where it is cut; values at pairs without an edge are ignored. One mask for all
            prompts, or one per prompt.
        tokens: the clean prompts, from ``with_positions`` if the graph distinguishes positions.
        ablated: the values that cut edges carry, see ``Ablation.values``.
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
    # mask gradients are float32 at least, whatever the model's precision
    mask = kept.to(model.device, torch.promote_types(model.dtype, torch.float32))
    return _MaskedRun.apply(mask[None] if mask.ndim == 2 else mask, ablated, model, graph, tokens)


def _run(
    model: Transformer,
    graph: Graph,
    added: Sums,
    tokens: Tokens,
    ablated: Float[Tensor, "writer batch pos d_model"],
    read: list[bool] | None = None,
) -> Iterator[Float[Tensor, "reader batch pos d_model"]]:
    """The inputs of each unit's readers, from the first layer to the logits; fills in the differences of ``added``.

    Args:
        read: per writer, whether any reader reads it; units without such a writer are skipped. None runs all units.
    """
    embedding = embedding_values(model, graph, tokens)
    torch.sub(embedding, ablated[: len(embedding)], out=added.differences[: len(embedding)])
    base, biases, n_based = torch.zeros_like(ablated[0]), _biases(model, graph), 0
    for at in stretches(graph):
        base = base + ablated[n_based : at.n_read].sum(0) + biases[n_based : at.n_read].sum(0)
        n_based = at.n_read
        if read is not None and at.unit.writers and not any(read[at.writers]):
            added.differences[at.writers] = 0
            continue
        inputs = added.read(at) + base
        yield inputs
        if at.unit.writers:
            writes = at.unit.writes(model, inputs)
            torch.sub(writes, ablated[at.writers], out=added.differences[at.writers])


def _biases(model: Transformer, graph: Graph) -> Float[Tensor, "writer d_model"]:
    """Biases that belong to no writer: each unit's bias is stored at its first writer and joins the stream there."""
    biases = torch.zeros(len(graph.writers), model.config.d_model, device=model.device, dtype=model.dtype)
    for index, unit in enumerate(graph.units):
        bias = unit.bias(model)
        if bias is not None:
            biases[graph.writers_in[index][0]] = bias
    return biases


class _MaskedRun(torch.autograd.Function):
    """``last_stream`` with its own backward pass; autograd would store all writers' values once per unit."""

    @staticmethod
    def forward(
        ctx: Any,
        mask: Float[Tensor, "#batch writer reader"],
        ablated: Float[Tensor, "writer batch pos d_model"],
        model: Transformer,
        graph: Graph,
        tokens: Tokens,
    ) -> Float[Tensor, "batch pos d_model"]:
        added = sums(graph, mask, torch.empty_like(ablated, memory_format=torch.contiguous_format), tokens)
        graph = graph.without_positions
        if any(ctx.needs_input_grad):
            inputs = deque(_run(model, graph, added, tokens, ablated))
        else:
            read = (mask != 0).any(0).any(-1).tolist()
            inputs = deque(_run(model, graph, added, tokens, ablated, read), maxlen=1)
        ctx.sums, ctx.inputs, ctx.model, ctx.graph = added, inputs, model, graph
        return inputs[-1][0]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator hides the signature
        ctx: Any, at_logits: Float[Tensor, "batch pos d_model"]
    ) -> tuple[Tensor | None, ...]:
        added, graph = ctx.sums, ctx.graph
        at_mask, at_units = torch.zeros_like(added.mask), []
        at_values = torch.zeros_like(added.differences, dtype=added.mask.dtype)
        for at, inputs in zip(reversed(list(stretches(graph))), reversed(ctx.inputs), strict=True):
            at_readers = widened(at_logits[None])
            if at.unit.writers:
                if not bool(at_values[at.writers].any()):
                    # none of the unit's writes reaches the logits, so all its gradients are zero
                    at_units.append(torch.zeros_like(at_readers[0]))
                    continue
                at_readers = widened(_pull_back(ctx.model, at.unit, inputs, at_values[at.writers]))
            added.add_at_mask(at, at_readers, at_mask)
            added.add_at_values(at, at_readers, at_values)
            at_units.append(at_readers.sum(0))
        at_ablated = _at_ablated(graph, at_units[::-1], at_values) if ctx.needs_input_grad[1] else None
        return at_mask, at_ablated, None, None, None


def _pull_back(
    model: Transformer,
    unit: Unit,
    inputs: Float[Tensor, "reader batch pos d_model"],
    at_writes: Float[Tensor, "writer batch pos d_model"],
) -> Float[Tensor, "reader batch pos d_model"]:
    """Gradients at a unit's readers from the gradients at its writes; the unit is run again."""
    leaf = inputs.detach().requires_grad_()
    with torch.enable_grad():
        writes = unit.writes(model, leaf)
    return torch.autograd.grad(writes, leaf, at_writes.to(writes.dtype))[0]


def _at_ablated(
    graph: Graph,
    at_units: list[Float[Tensor, "batch pos d_model"]],
    at_values: Float[Tensor, "writer batch pos d_model"],
) -> Float[Tensor, "writer batch pos d_model"]:
    """Σ (1 − kept) · gradient over the readers of each writer: the sum over all readers minus the kept readers' part."""
    n_read = torch.tensor([at.n_read for at in stretches(graph)], device=at_values.device)
    reads = torch.arange(len(graph.writers), device=at_values.device)[:, None] < n_read
    return torch.einsum("wu,ubpd->wbpd", reads.to(at_values.dtype), torch.stack(at_units)) - at_values


def last_stream_of_nodes(
    model: Transformer,
    graph: Graph,
    kept: Float[Tensor, "*#batch writer"],
    tokens: Tokens,
    ablated: Float[Tensor, "writer batch pos d_model"],
) -> Float[Tensor, "batch pos d_model"]:
    """The last residual stream, not yet normalised.

    Args:
        kept: 1 where a writer is kept, 0 where it is ablated; one mask for all prompts, or one per prompt.
        tokens: the clean prompts.
        ablated: the values of ablated writers, see ``Ablation.values``.
    """
    mask = kept.to(model.device, model.dtype)
    mask = (mask[None] if mask.ndim == 1 else mask).T[..., None, None]
    done = 0

    def written(values: Float[Tensor, "writer batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        nonlocal done
        rows = slice(done, done + len(values))
        done = rows.stop
        return torch.lerp(ablated[rows], values, mask[rows]).sum(0)

    stream = Stream(written(embedding_values(model, graph, tokens)))
    for unit in graph.units[:-1]:
        stream.add(written(unit.run(model, stream.read_by(unit)).writes), unit.bias(model))
    return stream.total
