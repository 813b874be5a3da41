"""The direction of a search: cut edges of the model, or restore edges to the corrupted run.

    noising      the model runs on clean prompts,     a cut edge carries the corrupted run's value
                 effect of an edge = L(with it cut) − L(before)
    denoising    the model runs on corrupted prompts, a restored edge carries the clean run's value
                 effect of an edge = L(before) − L(with it restored)
        both         scores: each edge's effect of larger size; searches that decide: the union of both circuits

Noising finds the edges that the behaviour needs, denoising the edges that bring it back (Heimersheim & Nanda 2024, arXiv
2404.15255). If either of two edges suffices, cutting one alone changes nothing, and restoring one restores everything. If both
are needed together, the reverse holds.

Denoising is noising with the two runs exchanged and the loss negated, so the engine does both exactly. It needs a corrupted
run to start from. Resample ablation has one; ablations that replace values by constants have none.
"""

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.ablation import Resample
from subcircuit.errors import SettingsError

Direction: TypeAlias = Literal["noising", "denoising", "both"]

# per direction, one entry per search: whether it restores edges instead of cutting them
ENDS: dict[Direction, tuple[bool, ...]] = {"noising": (False,), "denoising": (True,), "both": (False, True)}


def check_direction(direction: Direction) -> None:
    """Check that the direction exists.

    Raises:
        SettingsError: it does not.
    """
    if direction not in ENDS:
        raise SettingsError(f"direction is {direction!r}: choose 'noising', 'denoising' or 'both'")


def check_start(ablation: str, direction: Direction) -> None:
    """Check that the ablation has a corrupted run if the direction restores edges.

    Args:
        ablation: its name.
        direction: the direction of the search.

    Raises:
        SettingsError: the ablation replaces values by constants.
    """
    if direction != "noising" and ablation != Resample.name:
        raise SettingsError(
            f"direction {direction} restores edges in the corrupted run, and {ablation} ablation has no corrupted run, because its cut "
            "edges carry constants. Use resample ablation, or direction noising."
        )


def larger(effects: list[Float[Tensor, "writer reader"]]) -> Float[Tensor, "writer reader"]:
    """Per edge, the effect of the largest size, the first one in ties; NaN counts as smallest."""
    first, *rest = effects
    for other in rest:
        first = torch.where(first.isnan() | (other.abs() > first.abs()), other, first)
    return first
