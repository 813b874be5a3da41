"""A plain run in parts: each writer's contribution to the residual stream, the stream at each unit, and attention patterns."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.graph import Graph
from subcircuit.model.attention import pattern, project
from subcircuit.model.components import embed_positions, embed_tokens
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer, check_lengths
from subcircuit.units import Stream, Unit, UnitRun


@dataclass(frozen=True, eq=False)
class PlainUnit:
    """One unit in a plain run.

    Args:
        stream: the residual stream that its readers read.
        run: the unit's output for this stream; None for the logits, which write nothing.
    """

    unit: Unit
    stream: Float[Tensor, "batch pos d_model"]
    run: UnitRun | None


def embedding_values(model: Transformer, graph: Graph, tokens: Tokens) -> Float[Tensor, "writer batch pos d_model"]:
    """The values of the embedding: one writer, or token and position parts where the scope splits them."""
    check_lengths(model.config, tokens)
    parts = [embed_tokens(model.config, model.weights, tokens.ids), embed_positions(model.weights, tokens.ids)]
    return torch.stack(parts if len(graph.embeddings) == 2 else [parts[0] + parts[1]])


def unit_runs(model: Transformer, graph: Graph, embedding: Float[Tensor, "writer batch pos d_model"]) -> Iterator[PlainUnit]:
    """The units of a plain run in order, computed from the embedding's values."""
    stream = Stream(embedding.sum(0))
    for unit in graph.units:
        found = stream.read_by(unit)
        run = unit.run(model, found) if unit.writers else None
        yield PlainUnit(unit, found, run)
        if run is not None:
            stream.add(run.writes.sum(0), unit.bias(model))


def writer_values(model: Transformer, graph: Graph, tokens: Tokens) -> Float[Tensor, "writer batch pos d_model"]:
    """Every writer's value at every position; these values and the biases of no writer sum to the last residual stream."""
    embedding = embedding_values(model, graph, tokens)
    return torch.cat([embedding, *(found.run.writes for found in unit_runs(model, graph, embedding) if found.run is not None)])


@torch.no_grad()
def attention_patterns(model: Transformer, tokens: Tokens) -> Iterator[Float[Tensor, "head batch query key"]]:
    """Each layer's attention pattern in a run of the whole model, from the first layer on.

    Rows past a prompt's end are meaningless; rows before it sum to 1.

    Raises:
        PromptError: the prompts have unequal lengths and the model is not causal.
    """
    graph, heads = Graph.of(model.config), tuple(range(model.config.n_heads))
    positions = torch.arange(tokens.ids.shape[1], device=model.device)
    attentions = [f"a{layer}" for layer in range(model.config.n_layers)]
    runs = (found for found in unit_runs(model, graph, embedding_values(model, graph, tokens)) if found.unit.name in attentions)
    for layer, found in enumerate(runs):
        q, k = (project(model, layer, part, found.stream[None], positions, heads) for part in ("q", "k"))
        yield pattern(model, layer, q, k)
