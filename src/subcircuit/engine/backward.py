"""Gradients of a loss with respect to every reader's input, at a run of the whole model.

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
from jaxtyping import Float
from torch import Tensor

from subcircuit.graph import Graph
from subcircuit.model.transformer import Transformer
from subcircuit.units import Stream
from subcircuit.units.gradients import GRADIENTS, Rules, widened

Streams: TypeAlias = tuple[Float[Tensor, "batch pos d_model"], ...]
"""What readers find at each unit of a graph, the logits last."""


@dataclass(frozen=True, eq=False)
class UnitGradient:
    """Gradients at one unit.

    Args:
        readers: columns of the unit's readers, each place by place.
        at_readers: with respect to the input of each reader, at all places.
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
