"""What attention heads look at: the patterns of a plain run."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.heads import pattern, project
from subcircuit.engine.values import layer_runs
from subcircuit.graph import Graph
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer


@torch.no_grad()
def attention_patterns(model: Transformer, tokens: Tokens) -> Iterator[Float[Tensor, "head batch query key"]]:
    """Each layer's attention pattern in a run of the whole model, from the first layer on.

    Rows past a prompt's end are meaningless; rows before it sum to 1.

    Raises:
        PromptError: prompts of unequal lengths in a model that is not causal.
    """
    heads = tuple(range(model.config.n_heads))
    positions = torch.arange(tokens.ids.shape[1], device=model.device)
    for layer, run in enumerate(layer_runs(model, Graph.of(model.config), tokens)):
        q, k = (project(model, layer, part, run.before_attention[None], positions, heads) for part in ("q", "k"))
        yield pattern(model, layer, q, k)
