"""What attention heads look at: the patterns of a plain run."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.values import embedding_values, unit_runs
from subcircuit.graph import Graph
from subcircuit.model.attention import pattern, project
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer


@torch.no_grad()
def attention_patterns(model: Transformer, tokens: Tokens) -> Iterator[Float[Tensor, "head batch query key"]]:
    """Each layer's attention pattern in a run of the whole model, from the first layer on.

    Rows past a prompt's end are meaningless; rows before it sum to 1.

    Raises:
        PromptError: prompts of unequal lengths in a model that is not causal.
    """
    graph, heads = Graph.of(model.config), tuple(range(model.config.n_heads))
    positions = torch.arange(tokens.ids.shape[1], device=model.device)
    attentions = [f"a{layer}" for layer in range(model.config.n_layers)]
    runs = (found for found in unit_runs(model, graph, embedding_values(model, graph, tokens)) if found.unit.name in attentions)
    for layer, found in enumerate(runs):
        q, k = (project(model, layer, part, found.stream[None], positions, heads) for part in ("q", "k"))
        yield pattern(model, layer, q, k)
