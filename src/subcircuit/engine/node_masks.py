"""The forward pass with masks on nodes: a writer's value is mixed with its ablated value for all of its readers at once.

    written(w) = kept[w] · value(w) + (1 − kept[w]) · ablated(w)

The same as ``forward.py`` with ``kept[w, r] = kept[w]`` for every reader, and as cheap as a plain forward pass: readers
of a layer share one input. Gradients flow to mask and ablated values.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.values import embedding_values
from subcircuit.graph import Graph
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer
from subcircuit.units import Stream


def last_stream_of_nodes(
    model: Transformer,
    graph: Graph,
    kept: Float[Tensor, "*#batch writer"],
    tokens: Tokens,
    ablated: Float[Tensor, "writer batch pos d_model"],
) -> Float[Tensor, "batch pos d_model"]:
    """The last residual stream, not yet normalised.

    Args:
        kept: 1 where a writer is kept, 0 where it is ablated; one mask for all prompts, or one for each.
        tokens: the clean prompts.
        ablated: what ablated writers write, see ``ablated_values``.
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
