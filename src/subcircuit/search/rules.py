"""What ACDC goes by: its settings, and what is decided before it begins."""

from dataclasses import dataclass
from hashlib import sha256

from jaxtyping import Bool
from torch import Tensor

from subcircuit.errors import SettingsError
from subcircuit.search.direction import Direction, check_direction
from subcircuit.search.order import HeadOrder


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
