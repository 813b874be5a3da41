"""What each edge of a circuit is worth, measured by cutting it, and the circuit without those that are worth too little.

A change of the loss is a mean over few prompts. It is trusted as far as its standard error allows: an edge goes where its cut costs
less than the price on other prompts like these, too, as far as one standard error tells. Without that, pruning fits its prompts:
on 16 of them more than half of the edges of a circuit seemed to cost nothing, and without these it did worse on others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.graph import Circuit
from subcircuit.search.journal import Journal, each
from subcircuit.search.objective import Panel, digest, without_each

# of the circuit's edges, the most that a round drops
_AT_ONCE = 0.1


class Cost(NamedTuple):
    """What cutting an edge alone adds to the loss: the mean over prompts, and what it will hardly exceed on others."""

    mean: float
    at_most: float
    cell: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Pruned:
    """A circuit without some of its edges, and how many circuits were measured for it."""

    kept: Bool[Tensor, "writer reader"]
    trials: int


def at_most(change: Float[Tensor, " batch"]) -> float:
    """A mean over prompts that will hardly be exceeded on others like them: one standard error above that of these."""
    spread = float(change.std()) if len(change) > 1 else 0.0
    return float(change.mean()) + spread / sqrt(len(change))


def costs(search: Panel, kept: Bool[Tensor, "writer reader"], journal: Journal) -> list[Cost]:
    """What cutting each edge of a circuit alone adds to the loss."""
    at, key = search.at(kept), digest(kept)
    loss, columns = at.loss(), kept.any(0).nonzero().flatten().tolist()
    writers = {column: kept[:, column].nonzero().flatten().tolist() for column in columns}
    units = [(f"{key}/losses without/{search.problem.graph.readers[column]}", column) for column in columns]
    losses = each(journal, units, lambda column: without_each(at, column, writers[column]))
    return [
        Cost(float(change.mean()), at_most(change), (row, column))
        for column, found in zip(columns, losses, strict=True)
        for row, change in zip(writers[column], found.to(loss.device) - loss, strict=True)
    ]


@torch.no_grad()
def pruned(
    search: Panel, kept: Bool[Tensor, "writer reader"], found: Sequence[Cost], price: float, most: int | None = None
) -> Pruned:
    """The circuit without edges that cost less than ``price``, the cheapest first, each measured again in its turn.

    Args:
        found: what cutting each of its edges alone costs.
        most: how many go at most; None for the share of one round.
    """
    at = search.at(kept)
    loss, trials = at.loss(), 0
    left = min(max(1, int(_AT_ONCE * len(found))), most or len(found))
    for _, (row, column) in sorted((cost.at_most, cost.cell) for cost in found if cost.at_most < price):
        if not left:
            break
        trial = kept.clone()
        trial[row, column] = False
        then = at.map(lambda engine: engine.commit(trial, [column]))  # noqa: B023
        after = then.loss()
        trials += 1
        if at_most(after - loss) < price:
            kept, at, loss, left = trial, then, after, left - 1
    return Pruned(Circuit(search.problem.graph, kept).prune().kept, trials)
