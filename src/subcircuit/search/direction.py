"""From which end a search goes: from the model, cutting edges, or from the corrupted run, restoring edges.

    noising      the model runs on clean prompts,     a cut edge carries the corrupted run's value
                 effect of an edge = L(with it cut) − L(before)
    denoising    the model runs on corrupted prompts, a restored edge carries the clean run's value
                 effect of an edge = L(before) − L(with it restored)
    both         of scores: each edge's effect of larger size; of a search that decides: the union of both circuits

Noising finds what the behaviour cannot do without, denoising what brings it back (Heimersheim & Nanda 2024, arXiv
2404.15255). Of two edges either of which is enough, cutting one alone changes nothing, and restoring one restores all; of two
that are needed together it is the other way round.

Denoising is noising with the two runs in each other's place and the loss negated, so the engine does both, exactly. It needs
a run to start from: resample ablation has one, ablations that put constants in place of values have none.
"""

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.ablation import Resample
from subcircuit.errors import SettingsError

Direction: TypeAlias = Literal["noising", "denoising", "both"]

# whether each search that a direction stands for restores edges instead of cutting them
ENDS: dict[Direction, tuple[bool, ...]] = {"noising": (False,), "denoising": (True,), "both": (False, True)}


def check_direction(direction: Direction) -> None:
    """Refuse what is no direction.

    Raises:
        SettingsError: it is none.
    """
    if direction not in ENDS:
        raise SettingsError(f"direction is {direction!r}: choose 'noising', 'denoising' or 'both'")


def check_start(ablation: str, direction: Direction) -> None:
    """Refuse to restore edges where there is no run to restore them to.

    Args:
        ablation: its name.
        direction: of the search.

    Raises:
        SettingsError: the ablation puts constants in place of values.
    """
    if direction != "noising" and ablation != Resample.name:
        raise SettingsError(
            f"direction {direction} restores edges to the corrupted run, and {ablation} ablation has none: "
            "its cut edges carry constants. Use resample ablation, or direction noising."
        )


def larger(effects: list[Float[Tensor, "writer reader"]]) -> Float[Tensor, "writer reader"]:
    """At each place the effect of the largest size, the first of equal ones; what is NaN counts as smallest."""
    first, *rest = effects
    for other in rest:
        first = torch.where(first.isnan() | (other.abs() > first.abs()), other, first)
    return first
