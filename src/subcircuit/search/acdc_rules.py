"""What ACDC goes by: its settings, the order of its decisions, which edges it tries together, and how many circuits at once.

From coarse to fine: at first all inputs of a layer's heads are one group, or all neurons or experts of an MLP, and the writers into a reader are
grouped by the unit that they are parts of: the heads of a layer, an MLP's neurons or experts. So a trial cuts one block
from another, or from a single input. A group of several goes if cutting it changes the metric by less than half of τ, for better
or for worse; otherwise it is opened, and its parts are tried. A group whose cut improves the metric may hold an edge that must
stay among others that work against it, so it does not go as a whole. Only what is tried by itself is kept, and by the rule of
the direct search.

    cost        where layers have many heads about half of the direct search's trials and time (docs/levels.md);
                with few layers and heads as many as there
    loses       an edge worth τ or more whose group is worth less than τ/2 either way, as others in it work against it

Speculation: a batch of T trials costs a fixed overhead, worth about c trials, and T trials; those after the first kept edge are
wasted. If edges are kept with probability k, cost per useful trial is near (c + T) / (T (1 − k T / 2)), least at
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

# kinds as the authors' program takes them; a head with a single input has only one
_PARTS = {"v": 0, "k": 1, "q": 2}


def cutting_order(graph: Graph, heads: HeadOrder) -> tuple[int, ...]:
    """Writers so that the last is cut first: by computation, heads of a layer from high to low or from low to high."""
    order = list(range(len(graph.embeddings)))
    for writers in graph.writers_in:
        order += sorted(writers, key=lambda w: -(graph.writers[w].column or 0)) if heads == "ascending" else writers
    return tuple(order)


def visiting_order(graph: Graph, unit: int, heads: HeadOrder) -> tuple[int, ...]:
    """A unit's readers as they are visited: v, k, q, and heads within each from high to low or from low to high.

    Neurons and experts go from high to low, the router after them; what is told apart by position from the last position to the first.
    """

    def place(reader: int) -> tuple[int, int, bool, int]:
        node = graph.readers[reader]
        head = node.column or 0
        # a head with a single input goes before the values of a group that has its number
        return _PARTS.get(node.kind, 0), head if heads == "ascending" else -head, node.kind in _PARTS, -reader

    return tuple(sorted(graph.readers_in[unit], key=place))


@dataclass(frozen=True)
class CutRules:
    """What is cut, in which order, and what an edge has to be worth to stay: the settings of ``Acdc``, which says what they mean."""

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
    """What a search that continues another one is given: most edges are decided already.

    Such edges are cut, or stay, when their reader is visited; everything upstream is whole then, as always.

    Args:
        kept: edges that are not cut untried.
        tried: those of them that are decided on; the others stay.
    """

    kept: Bool[Tensor, "writer reader"]
    tried: Bool[Tensor, "writer reader"]

    def __post_init__(self) -> None:
        assert not bool((self.tried & ~self.kept).any()), "what is tried is there"

    def writers(self, reader: int) -> frozenset[int]:
        """Those whose edges into a reader are tried."""
        return frozenset(self.tried[:, reader].nonzero().flatten().tolist())

    @property
    def digest(self) -> str:
        """Tells it from others."""
        return sha256(b"".join(mask.cpu().numpy().tobytes() for mask in (self.kept, self.tried))).hexdigest()

    def whole(self, reader: int) -> bool:
        """Whether all that a reader keeps is tried."""
        return bool(self.tried[:, reader].any()) and self.kept[:, reader].equal(self.tried[:, reader])


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


OVERHEAD = 6.0
_MEMORY = 0.97
ROWS_AT_ONCE = 1536
_FEWEST = 4


@dataclass
class Speculation:
    """Chooses the number of trials from how often edges were kept lately; deterministic.

    Args:
        fixed: always this many; None adapts.
        most: limit from memory, at least 1 is taken.
    """

    fixed: int | None
    most: int
    kept: float = 0.5
    tried: float = 10.0

    def size(self, rows: int) -> int:
        """Trials for the next batch.

        Args:
            rows: that the visited reader has in one trial: few in cache beat many out of it.
        """
        wanted = self.fixed or min(round((2 * OVERHEAD * self.tried / self.kept) ** 0.5), max(_FEWEST, ROWS_AT_ONCE // rows))
        return max(1, min(wanted, self.most))

    def learn(self, cut: int, kept: bool) -> None:
        """Take in the outcome of a batch: edges cut, and whether one was then kept."""
        fade = _MEMORY ** (cut + kept)
        self.tried = self.tried * fade + cut + kept
        self.kept = max(self.kept * fade + kept, 0.05)
