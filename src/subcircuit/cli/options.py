"""What a search is told on the command line: a method's settings, and which of the edges it scored make the circuit."""

from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from subcircuit.errors import SettingsError, UnknownNameError

if TYPE_CHECKING:
    from subcircuit.graph import By, Graph, Selection
    from subcircuit.search import LearnOptimal
    from subcircuit.tasks import BosPolicy


def bos_policy(name: str) -> "BosPolicy":
    """The policy of this name.

    Raises:
        UnknownNameError: there is none.
    """
    policies: "dict[str, BosPolicy]" = {"auto": "auto", "always": "always", "never": "never"}
    if name not in policies:
        raise UnknownNameError("bos", name, tuple(policies))
    return policies[name]


def configured(method: str, options: dict[str, Any], assignments: Sequence[str] = (), seed: int | None = None) -> Any:
    """A method's settings from the options that were given (not None).

    Args:
        assignments: more settings, each ``name=value``.
        seed: of methods that draw, unless assigned.

    Raises:
        UnknownNameError: there is no such method.
        SettingsError: an option that it does not have or does not understand, or one that it needs is not there.
    """
    from subcircuit.search import method_named

    return _filled(f"method {method}", method_named(method), options, assignments, seed)


def ablation_asked(name: str, assignments: Sequence[str], seed: int) -> "str | LearnOptimal":
    """The ablation of this name; for ``optimal`` how its constants are learned.

    Args:
        assignments: settings of learning, each ``name=value``.

    Raises:
        UnknownNameError: there is no such ablation.
        SettingsError: settings of an ablation that has none.
    """
    from subcircuit.engine import OPTIMAL, check_ablation
    from subcircuit.search import LearnOptimal

    check_ablation(name)
    if name == OPTIMAL:
        return _filled("ablation optimal", LearnOptimal, {}, assignments, seed)
    if assignments:
        raise SettingsError(f"--set optimal.{assignments[0]}: goes with --ablation optimal, not with {name}")
    return name


def _filled(what: str, settings: type[Any], options: dict[str, Any], assignments: Sequence[str], seed: int | None) -> Any:
    from pydantic import TypeAdapter, ValidationError

    known = {field.name: field.default is MISSING for field in fields(settings)}
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in known:
            raise SettingsError(f"{what} has no option --{name.replace('_', '-')}")
    given |= _assigned(what, assignments, tuple(known))
    if seed is not None and "seed" in known:
        given.setdefault("seed", seed)
    for name, required in known.items():
        if required and name not in given:
            raise SettingsError(f"{what} needs --{name.replace('_', '-')}")
    try:
        return TypeAdapter(settings).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"{first['loc'][0]} of {what} is {first['input']!r}: {first['msg']}") from None


def _assigned(what: str, assignments: Sequence[str], known: tuple[str, ...]) -> dict[str, str | None]:
    given = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise SettingsError(f"--set {assignment}: expected name=value, for example --set steps=10")
        if name not in known:
            raise UnknownNameError(f"setting of {what}", name, known)
        given[name] = None if value == "none" else value
    return given


def ranked_by(name: str) -> "By":
    """Which size of a score is meant.

    Raises:
        UnknownNameError: neither.
    """
    sizes: "dict[str, By]" = {"absolute": "absolute", "signed": "signed"}
    if name not in sizes:
        raise UnknownNameError("by", name, tuple(sizes))
    return sizes[name]


def names_in(texts: Sequence[str]) -> list[str]:
    """The names of an option that may be repeated, and may hold several with commas between them."""
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def split_settings(assignments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of the method, and those that begin with ``optimal.``, without it."""
    prefix = "optimal."
    learning = [text.removeprefix(prefix) for text in assignments if text.startswith(prefix)]
    return [text for text in assignments if not text.startswith(prefix)], learning


def settings_of(methods: Sequence[str], assignments: Sequence[str]) -> dict[str, list[str]]:
    """Settings ``method.name=value`` by method.

    Raises:
        SettingsError: a method that is named twice, or a setting of none of them.
    """
    if len(set(methods)) < len(methods) or not methods:
        raise SettingsError(f"--method {','.join(methods)}: name at least one method, and each once")
    settings: dict[str, list[str]] = {method: [] for method in methods}
    for assignment in assignments:
        method, _, rest = assignment.partition(".")
        if method not in settings:
            raise SettingsError(f"--set {assignment}: expected METHOD.NAME=VALUE, with one of {', '.join(methods)}")
        settings[method].append(rest)
    return settings


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them.

    Raises:
        SettingsError: they are not.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(f"--{option} {text}: expected numbers such as 0.1,0.02") from None


class Chosen:
    """Which edges to take, checked as far as it can be before the graph is known.

    Args:
        edges: how many: a number, or a share such as ``1%``.
        threshold: or the least score.
        greedy: grow from the logits instead of taking the largest.
        by: whether scores count as they are or by their size.

    Raises:
        SettingsError, UnknownNameError: not understood, or not to be had together.
    """

    def __init__(self, edges: str | None, threshold: float | None, greedy: bool, by: str):
        if threshold is not None and (edges is not None or greedy):
            raise SettingsError("--threshold takes the edges of at least a score, --edges and --greedy so many of them: choose")
        self._by: "By" = ranked_by(by)
        self._threshold, self._greedy = threshold, greedy
        self._count, self._share = parse_size(edges or "1%")

    def selection(self, graph: "Graph") -> "Selection":
        """As a selection from the edges of a graph."""
        from subcircuit.graph import Greedy, Threshold, TopN

        if self._threshold is not None:
            return Threshold(self._threshold, self._by)
        n = max(1, int(graph.n_edges * self._share)) if self._count is None else self._count
        return Greedy(n, self._by) if self._greedy else TopN(n, self._by)


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
