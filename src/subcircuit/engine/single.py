"""What the whole model computes when a single edge is cut: the cut changes one reader, the rest is the plain model.

With no other edge cut, all readers downstream of a changed writer find the same changed stream. So a trial takes the
change of what the reader's own nodes write, which the engine knows (``live.py``), and carries one stream through the
layers above, projected once per layer and not once per reader, at the rows where something can change and matter.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.clean import CleanRun
from subcircuit.engine.heads import finish, projection
from subcircuit.engine.incremental import Engine
from subcircuit.engine.live import contract
from subcircuit.engine.rows import Places, Reach
from subcircuit.graph import MLP, Attention, HeadPart, Logits
from subcircuit.model.components import attention_pattern, normalize
from subcircuit.model.transformer import Transformer, feed_forward


def open_all(engine: Engine) -> Engine:
    """The engine of the whole model with every node joined."""
    for unit in reversed(range(len(engine.run.graph.units))):
        engine = engine.open(unit)
    return engine


@torch.no_grad()
def try_singly(engine: Engine, reader: int, writers: Sequence[int]) -> Float[Tensor, "trial answer"]:
    """Losses of the whole model with only the first, only the second, … of these edges into a reader cut.

    Args:
        engine: of the whole model, from ``open_all``.
        reader: whose edges to cut.
        writers: one for each trial.
    """
    live, run = engine.live, engine.run
    unit, node, here = run.graph.unit_of[reader], reader // len(run.graph.places), live.at_place(reader)
    if here is not None and not bool(here.any()):
        return engine.loss().expand(len(writers), -1)
    cut = live.difference(node, writers)
    x = live.inputs[node] - (cut if here is None else cut.masked_fill(~here[:, None], 0.0))
    if isinstance(run.graph.units[unit], Logits):
        return engine.measure(x)
    written = live.recompute(unit, {node: x})
    change = torch.stack([values - live.writes[writer] for writer, values in written.items()]).sum(0)
    first = next(iter(written))
    later = next(u for u in range(unit + 1, len(run.graph.units)) if run.graph.edges[first, run.graph.readers_in[u][0]])
    stream = run.rows.take(run.streams[later], "changed", live.reach[first]) + change
    return engine.measure(_carry(run, later, stream, live.reach[first]))


def _carry(run: CleanRun, unit: int, stream: Float[Tensor, "trial row d_model"], reach: Reach) -> Tensor:
    """The last stream at the answers, from the stream that readers of ``unit`` find at the rows of ``reach``."""
    model = run.model
    for node in run.graph.units[unit:]:
        match node:
            case Attention(layer):
                narrowed: Reach = "answers" if layer == model.config.n_layers - 1 else "changed"
                before = run.rows.take(stream, "changed", narrowed)
                stream, reach = before + _attention(run, layer, stream, narrowed), narrowed
                if model.config.parallel:
                    stream = stream + feed_forward(model, layer, before)
            case MLP(layer) if not model.config.parallel:
                stream = stream + feed_forward(model, layer, stream)
            case _:
                pass
    return run.rows.take(stream, reach, "answers")


def _attention(run: CleanRun, layer: int, stream: Float[Tensor, "trial row d_model"], reach: Reach) -> Tensor:
    """What a layer's attention adds at the rows of ``reach`` when the stream changes at all rows that can."""
    model, rows = run.model, run.rows
    weights, places = model.weights.layers[layer], rows[reach]
    normed = normalize(stream, model.config.norm, weights.attention_norm)
    q = places.to_grid(_project(model, layer, "q", rows.take(normed, "changed", reach), places))
    k, v = (_into_grid(run, clean, _project(model, layer, part, normed, rows.changed)) for part, clean in _stored(run, layer))
    pattern = attention_pattern(contract(q, k.transpose(-1, -2)), run.mask(layer, reach), model.config)
    mixed = places.to_rows(contract(pattern, v)).permute(1, 2, 0, 3).flatten(2)
    written = mixed @ weights.attention.W_O.flatten(0, 1)
    written = written if weights.attention.b_O is None else written + weights.attention.b_O
    post = weights.attention_post_norm
    return written if post is None else normalize(written, model.config.norm, post)


def _stored(run: CleanRun, layer: int) -> tuple[tuple[HeadPart, Tensor], tuple[HeadPart, Tensor]]:
    """Clean keys and values, once for each key/value head."""
    return ("k", run.k[layer][:: run.model.config.heads_per_kv]), ("v", run.v[layer][:: run.model.config.heads_per_kv])


def _project(
    model: Transformer, layer: int, part: HeadPart, normed: Float[Tensor, "trial row d_model"], places: Places
) -> Float[Tensor, "head trial row d_head"]:
    """Queries of all heads, or keys or values of all key/value heads, in one product."""
    heads = tuple(range(0, model.config.n_heads, 1 if part == "q" else model.config.heads_per_kv))
    projected = F.linear(normed, projection(model, layer, part, heads).flatten(0, 1))
    return finish(model, layer, part, projected.unflatten(-1, (len(heads), -1)).permute(2, 0, 1, 3), places.pos, heads)


def _into_grid(
    run: CleanRun, clean: Float[Tensor, "kv_head batch pos d_head"], fresh: Float[Tensor, "kv_head trial row d_head"]
) -> Float[Tensor, "head trial batch pos d_head"]:
    """Keys or values at all positions for every query head: fresh ones where they can change."""
    grid = clean[:, None].repeat(1, fresh.shape[1], 1, 1, 1)
    grid.flatten(2, 3).index_copy_(2, run.rows.changed.flat, fresh)
    return grid.repeat_interleave(run.model.config.heads_per_kv, dim=0)
