"""Scopes as text: the grammar of ``--scope``.

    scope       item, item, …
    item        block | head | qkv | neuron | expert     the level of all that is not named; qkv unless given
                COMPONENT=LEVEL                          a9=block   a9.h3=qkv   m5=neuron
                COMPONENT-COMPONENT=LEVEL                a3-a7=head   m0-m4=neuron: first and last of several layers
                kv=per_query_head | kv=grouped
                embeddings=joined | embeddings=split
                positions=all | positions=each | positions=roles

Later items overrule earlier ones. ``parse_scope(print_scope(scope)) == scope``. What is not understood is pointed at.
"""

from itertools import groupby
from typing import Any

from subcircuit.errors import GraphError, UnknownNameError
from subcircuit.graph.scope import COMPONENT_LEVELS, KEY_VALUES, LEVELS, POSITIONS, Level, Override, Scope, component_named
from subcircuit.units.nodes import MLP, Attention

# of a range; more layers than any model has
_MOST_LAYERS = 10_000
_OPTIONS: dict[str, dict[str, Any]] = {
    "kv": {known: known for known in KEY_VALUES},
    "embeddings": {"joined": False, "split": True},
    "positions": {known: known for known in POSITIONS},
}


def parse_scope(text: str) -> Scope:
    """The scope of a text.

    Raises:
        UnknownNameError: a level or option that does not exist; GraphError: anything else that makes no scope. Both show
            the text with a mark under the place.

    >>> parse_scope("head, a3-a4=qkv, m5=neuron").overrides
    (('a3', 'qkv'), ('a4', 'qkv'), ('m5', 'neuron'))
    """
    return _Parser(text).parse()


def print_scope(scope: Scope) -> str:
    """A scope as text; layers in a row with the same level are one item."""
    options = [f"kv={scope.kv}"] if scope.kv != "per_query_head" else []
    options += ["embeddings=split"] if scope.split_embeddings else []
    options += [f"positions={scope.positions}"] if scope.positions != "all" else []
    # whole layers first: what is said of a block overrules what was said of its heads
    layers = [override for override in scope.overrides if "." not in override[0]]
    heads = [f"{name}={level}" for name, level in scope.overrides if "." in name]
    return ", ".join([scope.level, *options, *_in_ranges(layers), *heads])


def _in_ranges(overrides: list[Override]) -> list[str]:
    items = []
    for (kind, level), some in groupby(sorted(overrides, key=_by_kind), key=lambda o: (o[0][0], o[1])):
        numbers = [int(name[1:]) for name, _ in some]
        for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
            row = [number for _, number in run]
            items.append(f"{kind}{row[0]}={level}" if len(row) == 1 else f"{kind}{row[0]}-{kind}{row[-1]}={level}")
    return items


def _by_kind(override: Override) -> tuple[str, str, int]:
    name, level = override
    return name[0], level, int(name[1:])


class _Parser:
    """One text; knows where it is, so that errors can point there."""

    def __init__(self, text: str):
        self.text = text
        self.level: Level | None = None
        self.overrides: list[Override] = []
        self.options: dict[str, Any] = {"kv": "per_query_head", "embeddings": False, "positions": "all"}

    def parse(self) -> Scope:
        start = 0
        for item in self.text.split(","):
            begin = start + len(item) - len(item.lstrip())
            self._item(item.strip(), begin)
            start += len(item) + 1
        level = self.level or "qkv"
        try:
            kv, split, positions = self.options.values()
            return Scope(level, kv, split, tuple(self.overrides), positions)
        except GraphError as error:
            # all items were checked alone: a head of a block that is one node
            name = next(n for n, _ in reversed(self.overrides) if n in str(error) and "." in n)
            raise GraphError(f"{error}{self._mark(self.text.rfind(name))}") from None

    def _item(self, item: str, begin: int) -> None:
        key, equals, value = (part.strip() for part in item.partition("="))
        at_value = begin + len(item) - len(item.partition("=")[2].lstrip())
        if not item:
            raise GraphError(f"the scope has an empty item{self._mark(begin)}")
        if not equals:
            self._default(key, begin)
        elif key in _OPTIONS:
            if value not in _OPTIONS[key]:
                raise UnknownNameError(key, value, tuple(_OPTIONS[key]), self._mark(at_value))
            self.options[key] = _OPTIONS[key][value]
        else:
            self._component(key, begin, value, at_value)

    def _default(self, word: str, begin: int) -> None:
        levels: dict[str, Level] = {known: known for known in LEVELS}
        if word not in levels:
            raise UnknownNameError("scope", word, LEVELS, self._mark(begin))
        if self.level is not None:
            raise GraphError(f"the scope has two levels, {self.level} and {word}: name components{self._mark(begin)}")
        self.level = levels[word]

    def _component(self, key: str, begin: int, value: str, at_value: int) -> None:
        for name in self._names(key, begin):
            levels: dict[str, Level] = {known: known for known in COMPONENT_LEVELS[type(component_named(name))]}
            if value not in levels:
                raise UnknownNameError(f"level of {name}", value, tuple(levels), self._mark(at_value))
            self.overrides.append((name, levels[value]))

    def _names(self, key: str, begin: int) -> list[str]:
        first, dash, last = key.partition("-")
        try:
            one, other = component_named(first.strip()), component_named(last.strip() if dash else first.strip())
        except GraphError as error:
            bad = begin if not _is_component(first.strip()) else begin + len(first) + 1
            known = f"; also {' and '.join(f'{option}=…' for option in _OPTIONS)}"
            raise GraphError(f"{error}{known}{self._mark(bad)}") from None
        if not dash:
            return [str(one)]
        if type(one) is not type(other) or not isinstance(one, Attention | MLP) or not one.layer <= other.layer < _MOST_LAYERS:
            raise GraphError(f"{key!r} is no range of layers: write a3-a7 or m0-m4, the lower first{self._mark(begin)}")
        return [str(type(one)(layer)) for layer in range(one.layer, other.layer + 1)]

    def _mark(self, column: int) -> str:
        """The text, and a mark under this column."""
        return f"\n  {self.text}\n  {' ' * column}^"


def _is_component(name: str) -> bool:
    try:
        component_named(name)
    except GraphError:
        return False
    return True
