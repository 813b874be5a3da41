"""Scope: the level of abstraction at which each part of the model is resolved into nodes.

    block     attention blocks and MLPs
    head      heads with one input each, and MLPs
    qkv       heads whose query, key and value inputs are readers of their own, and MLPs
    neuron    heads as at qkv; every neuron of an MLP is a node
    expert    heads as at qkv; of mixtures of experts, every expert and the router's input

A scope also determines whether a node covers all positions, or there is a node per position or per token role.

A scope is a level for the whole model, plus levels of single components that differ from it. ``parse_scope`` reads the
command line's grammar, and ``str`` prints it.

Scopes as text: the grammar of ``--scope``.

    scope       item, item, …
        item        block | head | qkv | neuron | expert     the level of all components that are not named; default qkv
                COMPONENT=LEVEL                          a9=block   a9.h3=qkv   m5=neuron
                COMPONENT-COMPONENT=LEVEL                a3-a7=head   m0-m4=neuron: first and last of several layers
                kv=per_query_head | kv=grouped
                embeddings=joined | embeddings=split
                positions=all | positions=each | positions=roles

Later items override earlier ones. ``parse_scope(print_scope(scope)) == scope``. Errors mark the place in the text.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, TypeAlias, get_args

from subcircuit.errors import GraphError, UnknownNameError
from subcircuit.units.nodes import MLP, Attention, Head, Writer, parse_writer

Level: TypeAlias = Literal["block", "head", "qkv", "neuron", "expert"]
KeyValues: TypeAlias = Literal["per_query_head", "grouped"]
Positions: TypeAlias = Literal["all", "each", "roles"]
Override: TypeAlias = tuple[str, Level]
"""A component's name (``a5``, ``a5.h3``, ``m5``) and its level."""

LEVELS: tuple[Level, ...] = get_args(Level)
KEY_VALUES: tuple[KeyValues, ...] = get_args(KeyValues)
POSITIONS: tuple[Positions, ...] = get_args(Positions)
# what a component can be resolved into
COMPONENT_LEVELS: dict[type[Writer], tuple[Level, ...]] = {
    Attention: ("block", "head", "qkv"),
    Head: ("head", "qkv"),
    MLP: ("block", "neuron", "expert"),
}


@dataclass(frozen=True, slots=True)
class Scope:
    """The rule for what counts as a node.

    Args:
        level: the level of every component that is not in ``overrides``.
        kv: under grouped-query attention, one key and value reader per query head (as published circuits count) or one
                per key/value head; applies to heads at level ``qkv``.
        split_embeddings: token and position embeddings are separate writers (models with learned positions).
        overrides: levels of components: attention blocks, heads of blocks that are resolved into heads, MLPs. The order is free;
            the last level of a component counts. Stored in order of layers, without redundant entries.
        positions: a node covers all positions (``all``), or there is a node at each position of aligned prompts (``each``), or at
            each token role of the task (``roles``).

    Raises:
        GraphError: an override names no component, a level that it cannot have, or a head of a block that is one node.

    Examples:
        >>> str(Scope("head", overrides=(("m5", "neuron"), ("a9", "qkv"))))
        'head, m5=neuron, a9=qkv'
    """

    level: Level = "qkv"
    kv: KeyValues = "per_query_head"
    split_embeddings: bool = False
    overrides: tuple[Override, ...] = ()
    positions: Positions = "all"

    def __post_init__(self) -> None:
        object.__setattr__(self, "overrides", _normal(self.level, self.overrides))

    @staticmethod
    def named(scope: str = "qkv", kv: str = "per_query_head", split_embeddings: bool = False) -> "Scope":
        """The scope from a user's text.

        Args:
            scope: in the grammar of ``parse_scope``.
            kv, split_embeddings: as ``kv=…`` and ``embeddings=split`` in ``scope``.

        Raises:
            UnknownNameError, GraphError: the scope cannot be parsed; the message marks the place.
            UnknownNameError: ``kv`` is not a known option.
        """
        from subcircuit.graph.scope import parse_scope

        key_values: dict[str, KeyValues] = {known: known for known in KEY_VALUES}
        if kv not in key_values:
            raise UnknownNameError("kv", kv, KEY_VALUES)
        parsed = parse_scope(scope)
        chosen = key_values[kv] if parsed.kv == "per_query_head" else parsed.kv
        return Scope(parsed.level, chosen, parsed.split_embeddings or split_embeddings, parsed.overrides, parsed.positions)

    def __str__(self) -> str:
        from subcircuit.graph.scope import print_scope

        return print_scope(self)

    def of_head(self, layer: int, head: int) -> Level:
        """The level of a head: ``block``, ``head`` or ``qkv``."""
        levels = dict(self.overrides)
        return levels.get(f"a{layer}.h{head}") or levels.get(f"a{layer}") or _of_attention(self.level)

    def of_mlp(self, layer: int) -> Level:
        """The level of an MLP: ``block``, ``neuron`` or ``expert``. ``expert`` leaves a plain MLP whole."""
        return dict(self.overrides).get(f"m{layer}") or _of_mlp(self.level)

    @property
    def resolves_neurons(self) -> bool:
        """Whether any MLP is resolved into neurons."""
        return self.level == "neuron" or any(level == "neuron" for _, level in self.overrides)

    def at(self, component: str, level: Level) -> "Scope":
        """The scope with a component at another level.

        Raises:
            GraphError: as in the constructor.
        """
        return replace(self, overrides=(*self.overrides, (component, level)))


def component_named(name: str) -> Attention | Head | MLP:
    """The component of this name.

    Raises:
        GraphError: the name is not that of an attention block, head or MLP.
    """
    try:
        node = parse_writer(name)
    except GraphError:
        node = None
    if isinstance(node, Attention | Head | MLP) and node.position is None:
        return node
    raise GraphError(f"{name!r} is not a component: expected a<layer>, a<layer>.h<head> or m<layer>")


def _of_attention(level: Level) -> Level:
    return "qkv" if level in ("neuron", "expert") else level


def _of_mlp(level: Level) -> Level:
    return level if level in ("neuron", "expert") else "block"


def _normal(level: Level, overrides: Iterable[Override]) -> tuple[Override, ...]:
    """Overrides in order, each component once, without redundant ones."""
    levels: dict[Attention | Head | MLP, Level] = {}
    for name, wanted in overrides:
        component = component_named(name)
        if wanted not in COMPONENT_LEVELS[type(component)]:
            raise GraphError(f"{name} has no level {wanted!r}: choose {', '.join(COMPONENT_LEVELS[type(component)])}")
        if isinstance(component, Attention):
            # a block's level replaces earlier levels of its heads
            levels = {c: w for c, w in levels.items() if not (isinstance(c, Head) and c.layer == component.layer)}
        levels[component] = wanted
    kept: list[Override] = []
    for component in sorted(levels, key=_place):
        match component:
            case Attention():
                holds = _of_attention(level)
            case Head(layer):
                holds = levels.get(Attention(layer), _of_attention(level))
                if holds == "block":
                    raise GraphError(
                        f"a{layer} is one node, so {component} cannot have a level of its own: write a{layer}=head first"
                    )
            case MLP():
                holds = _of_mlp(level)
        if levels[component] != holds:
            kept.append((str(component), levels[component]))
    return tuple(kept)


def _place(component: Attention | Head | MLP) -> tuple[int, int, int]:
    match component:
        case Attention(layer):
            return layer, 0, 0
        case Head(layer, head):
            return layer, 1, head
        case MLP(layer):
            return layer, 2, 0


# of a range; more layers than any model has
_MOST_LAYERS = 10_000
_OPTIONS: dict[str, dict[str, Any]] = {
    "kv": {known: known for known in KEY_VALUES},
    "embeddings": {"joined": False, "split": True},
    "positions": {known: known for known in POSITIONS},
}


def parse_scope(text: str) -> Scope:
    """The scope that a text describes.

    Raises:
        UnknownNameError: a level or option does not exist. GraphError: the text is invalid in another way. Both show the text
            with a mark under the place.

    Examples:
        >>> parse_scope("head, a3-a4=qkv, m5=neuron").overrides
        (('a3', 'qkv'), ('a4', 'qkv'), ('m5', 'neuron'))
    """
    return _Parser(text).parse()


def print_scope(scope: Scope) -> str:
    """The scope as text; consecutive layers with the same level form one item."""
    options = [f"kv={scope.kv}"] if scope.kv != "per_query_head" else []
    options += ["embeddings=split"] if scope.split_embeddings else []
    options += [f"positions={scope.positions}"] if scope.positions != "all" else []
    # whole layers first: a block's level overrides the levels of its heads
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
    """Parser of one text; it tracks its position so that errors can mark the place."""

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
            raise GraphError(
                f"the scope has two levels, {self.level} and {word}: write one level, then exceptions such as m5=neuron{self._mark(begin)}"
            )
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
            raise GraphError(f"{key!r} is not a range of layers: write a3-a7 or m0-m4, the lower layer first{self._mark(begin)}")
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
