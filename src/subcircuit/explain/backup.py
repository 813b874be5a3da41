"""Backup heads: whose direct effect grows when the heads that do the work are corrupted (Wang et al. 2022, section 3.4)."""

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.explain.observe import Observation, at_answers
from subcircuit.graph import Head
from subcircuit.model.attention import attend
from subcircuit.model.transformer import feed_forward


@torch.no_grad()
def growth(observed: Observation, heads: Collection[Head]) -> Float[Tensor, " writer"]:
    """How much each head's direct effect grows, in logits, when the writes of some heads are those of the corrupted run.

    Everything downstream is computed anew; the final norm's scale stays frozen where it was. 0 for what is no head.
    """
    model, task, graph = observed.model, observed.task, observed.graph
    at, grown, stream = at_answers(observed), torch.zeros(len(graph.writers), dtype=torch.float64), observed.streams[0][0]
    for layer in range(model.config.n_layers):
        before, weights = stream, model.weights.layers[layer].attention
        writes = attend(model, layer, before[None], before[None], before[None]).writes
        chosen = [head.head for head in heads if head.layer == layer]
        if chosen:
            other = observed.streams[1][graph.unit_index[f"a{layer}"]]
            writes[chosen] = attend(model, layer, other[None], other[None], other[None]).writes[chosen]
        rows = [graph.writer_index[Head(layer, head)] for head in range(model.config.n_heads)]
        change = task.answers.rows(writes) - task.answers.rows(observed.values[rows])
        grown[rows] = task.answers.mean(torch.linalg.vecdot(change, at)).cpu()
        attended = stream + writes.sum(0)
        attended = attended if weights.b_O is None else attended + weights.b_O
        mlp = feed_forward(model, layer, before if model.config.parallel else attended) if model.config.d_mlp else 0
        stream = attended + mlp
    return grown
