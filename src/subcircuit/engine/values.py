"""A plain run taken apart: what every writer adds to the residual stream, and what readers find there."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.heads import attend
from subcircuit.engine.mlps import mlp_writes, unit_bias
from subcircuit.graph import MLP, Attention, Graph
from subcircuit.graph.graph import Unit
from subcircuit.model.components import embed_positions, embed_tokens
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer, check_lengths


@dataclass(frozen=True, eq=False)
class LayerRun:
    """One layer of a plain run.

    Args:
        before_attention, before_mlp: the stream that attention and MLP read.
        k, v: keys and values, repeated for every query head.
        writes: per head, or one row for the whole block at level ``block``; without ``b_O``.
        mlp: what the MLP writes: one row, or a row per neuron (without ``b_out``) or expert where they are nodes; None in
            attention-only models.
        after: the stream that the next layer reads.
    """

    before_attention: Float[Tensor, "batch pos d_model"]
    k: Float[Tensor, "head batch pos d_head"]
    v: Float[Tensor, "head batch pos d_head"]
    writes: Float[Tensor, "writer batch pos d_model"]
    before_mlp: Float[Tensor, "batch pos d_model"]
    mlp: Float[Tensor, "part batch pos d_model"] | None
    after: Float[Tensor, "batch pos d_model"]


def embedding_values(model: Transformer, graph: Graph, tokens: Tokens) -> Float[Tensor, "writer batch pos d_model"]:
    """What the embedding writes: one writer, or token and position parts where the scope splits them."""
    check_lengths(model.config, tokens)
    parts = [embed_tokens(model.config, model.weights, tokens.ids), embed_positions(model.weights, tokens.ids)]
    return torch.stack(parts if graph.scope.split_embeddings else [parts[0] + parts[1]])


def layer_runs(model: Transformer, graph: Graph, tokens: Tokens) -> Iterator[LayerRun]:
    """Run the model layer by layer."""
    stream = embedding_values(model, graph, tokens).sum(0)
    for layer in range(model.config.n_layers):
        before = stream
        heads = attend(model, layer, before[None], before[None], before[None])
        writes = heads.writes.sum(0, keepdim=True) if graph.is_block(layer) else heads.writes
        attended = with_bias(model, graph, Attention(layer), stream + writes.sum(0))
        before_mlp = before if model.config.parallel else attended
        written = mlp_writes(model, graph, layer, before_mlp) if model.config.d_mlp else None
        stream = attended if written is None else with_bias(model, graph, MLP(layer), attended + written.sum(0))
        yield LayerRun(before, heads.k, heads.v, writes, before_mlp, written, stream)


def with_bias(
    model: Transformer, graph: Graph, unit: Unit, stream: Float[Tensor, "*rows d_model"]
) -> Float[Tensor, "*rows d_model"]:
    """The stream after a unit's writes, with the bias that belongs to none of them."""
    bias = unit_bias(model, graph, unit)
    return stream if bias is None else stream + bias


def writer_values(model: Transformer, graph: Graph, tokens: Tokens) -> Float[Tensor, "writer batch pos d_model"]:
    """Every writer's value at every position: they and the biases of no writer sum to the last residual stream."""
    values = [embedding_values(model, graph, tokens)]
    for run in layer_runs(model, graph, tokens):
        values += [run.writes] if run.mlp is None else [run.writes, run.mlp]
    return torch.cat(values)
