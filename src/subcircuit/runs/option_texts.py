"""Texts of options as values: settings, targets, sizes, lists of names and of numbers."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, TypeAlias

from subcircuit.errors import SettingsError

Scalar: TypeAlias = bool | int | float | str | None

_TARGETS = ("faithfulness", "kl", "edges")


def parse_settings(assignments: Sequence[str]) -> dict[str, Scalar]:
    """Settings from texts ``NAME=VALUE``; numbers, ``true``, ``false`` and ``none`` are read as such.

    Raises:
        SettingsError: a text has no "=".
    """
    settings: dict[str, Scalar] = {}
    for assignment in assignments:
        name, equals, value = str(assignment).partition("=")
        if not equals:
            raise SettingsError(f"--set {assignment}: expected name=value, for example --set steps=10")
        settings[name.strip()] = _scalar(value)
    return settings


def parse_size(text: str) -> tuple[int | None, float]:
    """``200`` as a number of edges, ``1%`` as a share of them (the number is then None).

    Raises:
        SettingsError: neither.
    """
    number, percent, rest = text.partition("%")
    try:
        count, share = (None, float(number) / 100) if percent else (int(number.replace(",", "")), 0.0)
    except ValueError:
        count, share = -1, 0.0
    if rest or not 0 <= share <= 1 or (count is not None and count < 0) or share != share:
        raise SettingsError(f"--edges {text}: expected a number such as 200 or a share such as 1%")
    return count, share


def names_in(texts: Sequence[str]) -> list[str]:
    """The names in texts that may hold several with commas between them."""
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them.

    Raises:
        SettingsError: the text is something else.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(f"--{option} {text}: expected numbers such as 0.1,0.02") from None


def as_settings(given: Any) -> dict[str, Any]:
    """Settings from a mapping, from texts ``NAME=VALUE``, or from None."""
    return dict(given) if isinstance(given, Mapping) else parse_settings(given or ())


def parse_targets(given: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Targets of a refinement from texts ``NAME=VALUE``; a mapping is returned as it is.

    Raises:
        SettingsError: a text is no target, or names one twice.
    """
    if isinstance(given, Mapping):
        return dict(given)
    targets: dict[str, Any] = {}
    for text in given:
        name, equals, value = str(text).partition("=")
        if name not in _TARGETS or not equals or name in targets:
            raise SettingsError(f"--target {text}: expected faithfulness=0.95, kl=0.5 or edges=200, each once")
        try:
            targets[name] = int(value) if name == "edges" else float(value)
        except ValueError:
            raise SettingsError(f"--target {text}: {value!r} is not a number") from None
    return targets


def _scalar(text: str) -> Scalar:
    words: dict[str, Scalar] = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if isfinite(number) else text
    return text
