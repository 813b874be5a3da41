"""Shares of search, validation and test prompts, and the number of prompts in each part."""

from collections.abc import Sequence
from typing import TypeAlias

from subcircuit.errors import SettingsError

Shares: TypeAlias = tuple[float, float, float]


Sizes: TypeAlias = tuple[int, int, int]


FILE_SHARES: Shares = (50.0, 20.0, 30.0)


FEWEST: Sizes = (3, 1, 2)


def parse_shares(text: str) -> Shares:
    """``50/20/30`` as three shares in percent: search, validation, test.

    Raises:
        SettingsError: not three numbers from 0 that add up to 100, or nothing to search with.
    """
    try:
        shares = tuple(float(part) for part in text.split("/"))
    except ValueError:
        shares = ()
    return check_shares(shares, text)


def check_shares(shares: Sequence[float | int], text: str | None = None) -> Shares:
    """Shares as `load_split` takes them; ``text`` is how they were written.

    Raises:
        SettingsError: as `parse_shares`.
    """
    text = "/".join(f"{share:g}" for share in shares) if text is None else text
    wanted = "expected the shares of search, validation and test prompts in percent, such as 50/20/30"
    if len(shares) != 3 or not all(0 <= share <= 100 for share in shares):
        raise SettingsError(f"split {text}: {wanted}")
    if abs(sum(shares) - 100) > 1e-6:
        raise SettingsError(f"split {text}: the shares add up to {sum(shares):g}, not to 100; {wanted}")
    if not shares[0]:
        raise SettingsError(f"split {text}: the share of search prompts is 0; {wanted}")
    search, validation, test = map(float, shares)
    return search, validation, test


def apportion(count: int, shares: Sequence[float | int], fewest: Sequence[int]) -> Sizes:
    """The number of prompts in each part: shares of the total, rounded by largest remainder.

    No part falls below its minimum in ``fewest``; the largest parts make up the difference. Needs at least ``sum(fewest)`` prompts.
    """
    exact = [count * share / sum(shares) for share in shares]
    sizes = [int(size) for size in exact]
    order = sorted(range(len(sizes)), key=lambda part: (sizes[part] - exact[part], part))
    for part in order[: count - sum(sizes)]:
        sizes[part] += 1
    while any(size < least for size, least in zip(sizes, fewest, strict=True)):
        low = next(part for part, least in enumerate(fewest) if sizes[part] < least)
        high = max(range(len(sizes)), key=lambda part: sizes[part] - fewest[part])
        sizes[low], sizes[high] = sizes[low] + 1, sizes[high] - 1
    search, validation, test = sizes
    return search, validation, test


def fewest_of(shares: Sequence[float | int]) -> Sizes:
    """The minimum number of prompts in each part; 0 for a part whose share is 0."""
    search, validation, test = (least if share else 0 for least, share in zip(FEWEST, shares, strict=True))
    return search, validation, test


def in_proportion(count: int, shares: Shares) -> tuple[int, int]:
    """The numbers of validation and test prompts that go with a number of search prompts."""
    validation, test = (
        max(round(count * share / shares[0]), least) if share else 0 for share, least in zip(shares[1:], FEWEST[1:], strict=True)
    )
    return validation, test
