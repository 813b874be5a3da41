"""Rules of ACDC: its settings, the order of decisions, groups of edges that are tried together, and the batch size of trials.

Coarse to fine: at first, all inputs of a layer's heads, or all neurons or experts of an MLP, form one group. The writers into
a reader are grouped by unit: the heads of a layer, or an MLP's neurons or experts. A trial thus cuts one block from another,
or from a single input. A group with several members is cut if that changes the metric by less than τ/2 in either direction.
Otherwise its parts are tried. A group whose cut improves the metric is not cut as a whole, because it may hold an edge that
must stay among others that oppose it. Only single members are ever kept, by the direct search's rule.

    cost        where layers have many heads about half of the direct search's trials and time (docs/levels.md);
                with few layers and heads as many as there
    loses       an edge worth τ or more whose group is worth less than τ/2 either way, as others in it work against it

Speculation: a batch of T trials costs a fixed overhead of about c trials, plus T trials. Trials after the first kept edge are
wasted. If edges are kept with probability k, the cost per useful trial is near (c + T) / (T (1 − k T / 2)), with its minimum at
T ≈ sqrt(2 c / k).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby, pairwise
from typing import Literal, TypeAlias

from jaxtyping import Bool
from torch import Tensor

from subcircuit.errors import SettingsError
from subcircuit.graph import Graph
from subcircuit.search.direction import Direction, check_direction

HeadOrder: TypeAlias = Literal["descending", "ascending"]

# parts of a head in the order of the authors' program; a head with a single input has only one
_PARTS = {"v": 0, "k": 1, "q": 2}


def cutting_order(graph: Graph, heads: HeadOrder) -> tuple[int, ...]:
    """Writers in reverse order of cutting: by computation, heads of a layer from high to low or from low to high."""
    order = list(range(len(graph.embeddings)))
    for writers in graph.writers_in:
        order += sorted(writers, key=lambda w: -(graph.writers[w].column or 0)) if heads == "ascending" else writers
    return tuple(order)


def visiting_order(graph: Graph, unit: int, heads: HeadOrder) -> tuple[int, ...]:
    """A unit's readers in visiting order: v, k, q, and heads within each from high to low or from low to high.

    Neurons and experts go from high to low, then the router. Readers at positions go from the last position to the first.
    """

    def place(reader: int) -> tuple[int, int, bool, int]:
        node = graph.readers[reader]
        head = node.column or 0
        # a head with a single input comes before the values of a group with the same number
        return _PARTS.get(node.kind, 0), head if heads == "ascending" else -head, node.kind in _PARTS, -reader

    return tuple(sorted(graph.readers_in[unit], key=place))


@dataclass(frozen=True)
class CutRules:
    """Settings of ``Acdc`` that define which edges are cut, in which order, and which edges stay; documented there."""

    threshold: float = 0.02
    whole_input: bool = True
    absolute: bool = False
    head_order: HeadOrder = "descending"
    direction: Direction = "noising"
    coarse_to_fine: bool = False
    speculation: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if not self.threshold >= 0 or self.threshold == float("inf"):
            raise SettingsError(
                f"threshold is {self.threshold}: it must be a number of at least 0, for example 0.02 for KL divergence"
            )
        if self.head_order not in ("descending", "ascending"):
            raise SettingsError(f"head_order is {self.head_order!r}: choose 'descending' or 'ascending'")
        check_direction(self.direction)
        for name in ("speculation", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {value}: it must be at least 1, or None to adapt")


@dataclass(frozen=True, eq=False)
class Within:
    """Decisions made before a search that continues another one.

    Decided edges are cut, or stay, when their reader is visited. Everything upstream is intact at that time, as in any search.

    Args:
        kept: edges that are not cut in advance.
        tried: the kept edges that the search decides on; the other kept edges stay.
    """

    kept: Bool[Tensor, "writer reader"]
    tried: Bool[Tensor, "writer reader"]

    def __post_init__(self) -> None:
        assert not bool((self.tried & ~self.kept).any()), "what is tried is there"

    def writers(self, reader: int) -> frozenset[int]:
        """The writers whose edges into a reader are tried."""
        return frozenset(self.tried[:, reader].nonzero().flatten().tolist())

    @property
    def digest(self) -> str:
        """A digest that identifies these decisions."""
        return sha256(b"".join(mask.cpu().numpy().tobytes() for mask in (self.kept, self.tried))).hexdigest()

    def whole(self, reader: int) -> bool:
        """Whether every kept edge into a reader is tried."""
        return bool(self.tried[:, reader].any()) and self.kept[:, reader].equal(self.tried[:, reader])


Group: TypeAlias = tuple[int, ...]
"""Rows or columns of an edge matrix, in the order in which they are tried."""

_SHARE = 0.5
_AT_ONCE = 16
_PIECES = 8


@dataclass(frozen=True)
class Rule:
    """The condition under which a group stays.

    Args:
        share: fraction of τ; a change of at least this much keeps the group.
        absolute: compare the size of the change, in either direction.
    """

    share: float
    absolute: bool

    @staticmethod
    def of(group: Group, absolute: bool) -> "Rule":
        """The rule for a group: a single member follows the search's own rule with this ``absolute``."""
        return Rule(1.0, absolute) if len(group) == 1 else Rule(_SHARE, absolute=True)

    def size(self, change: float) -> float:
        """The quantity to compare with the threshold, from a change of the metric."""
        return abs(change) if self.absolute else change


def singles(members: Sequence[int]) -> list[Group]:
    """One group per member."""
    return [(member,) for member in members]


def by_unit(graph: Graph, writers: Sequence[int]) -> list[Group]:
    """Groups of adjacent writers of the same unit; each embedding is its own group."""

    def unit(writer: int) -> object:
        unit = graph.unit_of_writer[writer]
        return graph.writers[writer] if unit is None else unit

    return [tuple(group) for _, group in groupby(writers, unit)]


def left_over(waiting: Sequence[Group], cut: int, tried: int) -> tuple[Group, list[Group]]:
    """The single member that stays after a batch of trials, if any, and the groups still to try, parts of an opened group first.

    Args:
        waiting: groups, of which the first ``tried`` were tried.
        cut: number of groups that were cut; if it is below ``tried``, the next group stays.
    """
    if cut == tried:
        return (), list(waiting[cut:])
    after = list(waiting[cut + 1 :])
    return (waiting[cut], after) if len(waiting[cut]) == 1 else ((), _parts(waiting[cut]) + after)


def _parts(group: Group) -> list[Group]:
    """The parts of an opened group: its members if there are few, otherwise equal pieces."""
    if len(group) <= _AT_ONCE:
        return singles(group)
    bounds = [len(group) * piece // _PIECES for piece in range(_PIECES + 1)]
    return [group[start:end] for start, end in pairwise(bounds)]


OVERHEAD = 6.0
_MEMORY = 0.97
ROWS_AT_ONCE = 1536
_FEWEST = 4


@dataclass
class Speculation:
    """Chooses the number of trials per batch from the recent share of kept edges; deterministic.

    Args:
        fixed: always this number; None adapts.
        most: upper limit from memory; at least 1 is used.
    """

    fixed: int | None
    most: int
    kept: float = 0.5
    tried: float = 10.0

    def size(self, rows: int) -> int:
        """The number of trials in the next batch.

        Args:
            rows: rows of the visited reader per trial; batches that fit in cache are faster.
        """
        wanted = self.fixed or min(round((2 * OVERHEAD * self.tried / self.kept) ** 0.5), max(_FEWEST, ROWS_AT_ONCE // rows))
        return max(1, min(wanted, self.most))

    def learn(self, cut: int, kept: bool) -> None:
        """Update with the outcome of a batch: the number of edges cut, and whether an edge was then kept."""
        fade = _MEMORY ** (cut + kept)
        self.tried = self.tried * fade + cut + kept
        self.kept = max(self.kept * fade + kept, 0.05)
