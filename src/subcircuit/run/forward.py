"""The masked forward pass: run a whole circuit, every reader on an input of its own.

    input(r) = Σ_w  kept[w, r] · value(w) + (1 − kept[w, r]) · ablated(w)   (+ biases that belong to no writer)

Values are those of the circuit itself: a writer whose inputs are cut writes something else than in the model. The
mask may hold any real numbers and gradients flow through it. Cost: every reader is normalised and projected on its
own, about three plain forward passes, and time and memory for the sums grow with writers × readers.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.graph import MLP, Graph, Logits
from subcircuit.model.components import unembed
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer, feed_forward
from subcircuit.run.heads import PARTS, attend
from subcircuit.run.values import embedding_values

Read: TypeAlias = Callable[[list[int]], Float[Tensor, "reader batch pos d_model"]]


def run_circuit(
    model: Transformer,
    graph: Graph,
    kept: Float[Tensor, "writer reader"] | Bool[Tensor, "writer reader"],
    tokens: Tokens,
    ablated: Float[Tensor, "writer batch pos d_model"],
) -> Float[Tensor, "batch pos vocab"]:
    """Logits of a circuit on clean prompts.

    Args:
        kept: 1 where an edge is kept, 0 where it is cut; values at places without an edge are ignored.
        tokens: the clean prompts.
        ablated: what cut edges carry, see ``ablated_values``.
    """
    return unembed(model.config, model.weights, last_stream(model, graph, kept, tokens, ablated))


def last_stream(
    model: Transformer,
    graph: Graph,
    kept: Float[Tensor, "writer reader"] | Bool[Tensor, "writer reader"],
    tokens: Tokens,
    ablated: Float[Tensor, "writer batch pos d_model"],
) -> Float[Tensor, "batch pos d_model"]:
    """The input of the ``logits`` reader in a circuit, not yet normalised."""
    config = model.config
    mask = kept.to(model.device, model.dtype)
    values = [embedding_values(model, graph, tokens)]
    bias = torch.zeros(config.d_model, device=model.device, dtype=model.dtype)

    def read(readers: list[int]) -> Float[Tensor, "reader batch pos d_model"]:
        live = torch.cat(values)[: int(graph.edges[:, readers[0]].sum())]
        cut = ablated[: len(live)]
        return torch.einsum("wr,wbpd->rbpd", mask[: len(live), readers], live - cut) + cut.sum(0) + bias

    for layer in range(config.n_layers):
        values.append(_attention(model, graph, layer, read))
        b_O = model.weights.layers[layer].attention.b_O
        if not config.parallel and b_O is not None:
            bias = bias + b_O
        if config.d_mlp:
            values.append(feed_forward(model, layer, read([graph.reader_index[MLP(layer)]])))
        if config.parallel and b_O is not None:
            bias = bias + b_O
    return read([graph.reader_index[Logits()]])[0]


def _attention(model: Transformer, graph: Graph, layer: int, read: Read) -> Float[Tensor, "writer batch pos d_model"]:
    """What the heads of one layer write (or the block as one writer), each reading inputs of its own."""
    readers = {part: [graph.reader_of(layer, head, part) for head in range(model.config.n_heads)] for part in PARTS}
    distinct = sorted({reader for part in PARTS for reader in readers[part]})
    inputs = read(distinct)
    q, k, v = (inputs[[distinct.index(reader) for reader in readers[part]]] for part in PARTS)
    writes = attend(model, layer, q, k, v).writes
    return writes.sum(0, keepdim=True) if graph.scope.level == "block" else writes
