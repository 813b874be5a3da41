"""What the whole model computes when a single edge is cut: the cut changes one reader, the rest is the plain model.

With no other edge cut, all readers downstream of a changed writer find the same changed stream. So a trial takes the
change of what the reader's own nodes write, which the engine knows (``live.py``), and carries one stream through the
layers above, projected once per layer and not once per reader, at the rows where something can change and matter.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.clean import CleanRun
from subcircuit.engine.incremental import Engine
from subcircuit.units import Reach


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
    if not run.graph.units[unit].writers:
        return engine.measure(x)
    written = live.recompute(unit, {node: x})
    change = torch.stack([values - live.writes[writer] for writer, values in written.items()]).sum(0)
    first = next(iter(written))
    clocks = [node.clock for node in run.graph.units]
    later = next(u for u in range(unit + 1, len(clocks)) if clocks[u] > clocks[unit])
    stream = run.rows.take(run.streams[later], "changed", live.reach[first]) + change
    return engine.measure(_carry(run, later, stream, live.reach[first]))


def _carry(run: CleanRun, unit: int, stream: Float[Tensor, "trial row d_model"], reach: Reach) -> Tensor:
    """The last stream at the answers, from the stream that readers of ``unit`` find at the rows of ``reach``."""
    units, rows = run.graph.units, run.rows
    # past the last unit that carries anything to other positions, only the answers matter
    last = max((index for index, node in enumerate(units) if any(node.spreads)), default=-1)
    clock, found, have = None, stream, reach
    for index, (node, clean) in enumerate(zip(units[unit:-1], run.units[unit:], strict=True), unit):
        if node.clock != clock:
            clock, found, have = node.clock, stream, reach
        want: Reach = "answers" if index >= last else "changed"
        stream, reach = rows.take(stream, reach, want) + node.adds_at(clean, found, have, want), want
    return rows.take(stream, reach, "answers")
