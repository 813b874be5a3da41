"""Edges that ACDC tries together, from coarse to fine.

At first all inputs of a layer's heads are one group, or all neurons or experts of an MLP, and the writers into a reader are
grouped by the unit that they are parts of: the heads of a layer, an MLP's neurons or experts. So a trial cuts one block
from another, or from a single input. A group of several goes if cutting it changes the metric by less than half of τ, for better
or for worse; otherwise it is opened, and its parts are tried. A group whose cut improves the metric may hold an edge that must
stay among others that work against it, so it does not go as a whole. Only what is tried by itself is kept, and by the rule of
the direct search.

    cost        where layers have many heads about half of the direct search's trials and time (docs/levels.md);
                with few layers and heads as many as there
    loses       an edge worth τ or more whose group is worth less than τ/2 either way, as others in it work against it
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TypeAlias

from subcircuit.graph import Graph

Group: TypeAlias = tuple[int, ...]
"""Rows or columns of an edge matrix, in the order in which they are tried."""

_SHARE = 0.5
_AT_ONCE = 16
_PIECES = 8


@dataclass(frozen=True)
class Rule:
    """When a group stays.

    Args:
        share: of τ, from which on its change is too much.
        absolute: whatever the direction of the change.
    """

    share: float
    absolute: bool

    @staticmethod
    def of(group: Group, absolute: bool) -> "Rule":
        """A single member stays by the search's own rule, which is told whether that is ``absolute``."""
        return Rule(1.0, absolute) if len(group) == 1 else Rule(_SHARE, absolute=True)

    def size(self, change: float) -> float:
        """Of a change of the metric, what is compared with the threshold."""
        return abs(change) if self.absolute else change


def singles(members: Sequence[int]) -> list[Group]:
    """Every member by itself."""
    return [(member,) for member in members]


def by_unit(graph: Graph, writers: Sequence[int]) -> list[Group]:
    """Neighbours of one unit together; each embedding by itself."""

    def unit(writer: int) -> object:
        unit = graph.unit_of_writer[writer]
        return graph.writers[writer] if unit is None else unit

    return [tuple(group) for _, group in groupby(writers, unit)]


def left_over(waiting: Sequence[Group], cut: int, tried: int) -> tuple[Group, list[Group]]:
    """After a batch of trials: the single member that stays, if any, and what waits now, parts of an opened group first.

    Args:
        waiting: groups, of which the first ``tried`` were tried.
        cut: groups that are gone; where they are fewer than those tried, the next one stays.
    """
    if cut == tried:
        return (), list(waiting[cut:])
    after = list(waiting[cut + 1 :])
    return (waiting[cut], after) if len(waiting[cut]) == 1 else ((), _parts(waiting[cut]) + after)


def _parts(group: Group) -> list[Group]:
    """A group that is opened: its members if they are few, else equal pieces."""
    if len(group) <= _AT_ONCE:
        return singles(group)
    bounds = [len(group) * piece // _PIECES for piece in range(_PIECES + 1)]
    return [group[start:end] for start, end in pairwise(bounds)]
