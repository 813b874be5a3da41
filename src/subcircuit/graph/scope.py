"""Scope: at which level of abstraction each part of the model is resolved into nodes.

    block     attention blocks and MLPs
    head      heads with one input each, and MLPs
    qkv       heads whose query, key and value inputs are readers of their own, and MLPs
    neuron    heads as at qkv; every neuron of an MLP is a node
    expert    heads as at qkv; of mixtures of experts, every expert and the router's input

and whether a node is one at all positions, or one at each position or token role.

A scope is a level for the whole model and levels of single components that differ from it. ``parse_scope`` reads the
grammar of the command line (``scope_text.py``), ``str`` prints it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

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
    """What counts as a node.

    Args:
        level: of every component that ``overrides`` do not name.
        kv: under grouped-query attention, one key and value reader per query head (as published circuits count) or one
            per key/value head; of heads at level ``qkv``.
        split_embeddings: token and position embeddings are separate writers (models with learned positions).
        overrides: levels of components: attention blocks, heads of blocks that are resolved into heads, MLPs. In any order,
            the last one of a component counts; kept in order of layers, without those that say what holds anyway.
        positions: a node is one at all positions, or every component is a node at each position of prompts that line up, or at
            each token role of the task.

    Raises:
        GraphError: an override names no component or a level that it cannot have, or heads of a block that is one node.

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
        """A scope from words that a user wrote.

        Args:
            scope: in the grammar of ``parse_scope``.
            kv, split_embeddings: as ``kv=…`` and ``embeddings=split`` in ``scope``.

        Raises:
            UnknownNameError, GraphError: the scope is not understood; the message points at the place.
            UnknownNameError: no such way to count keys and values.
        """
        from subcircuit.graph.scope_text import parse_scope

        key_values: dict[str, KeyValues] = {known: known for known in KEY_VALUES}
        if kv not in key_values:
            raise UnknownNameError("kv", kv, KEY_VALUES)
        parsed = parse_scope(scope)
        chosen = key_values[kv] if parsed.kv == "per_query_head" else parsed.kv
        return Scope(parsed.level, chosen, parsed.split_embeddings or split_embeddings, parsed.overrides, parsed.positions)

    def __str__(self) -> str:
        from subcircuit.graph.scope_text import print_scope

        return print_scope(self)

    def of_head(self, layer: int, head: int) -> Level:
        """How a head is resolved: ``block``, ``head`` or ``qkv``."""
        levels = dict(self.overrides)
        return levels.get(f"a{layer}.h{head}") or levels.get(f"a{layer}") or _of_attention(self.level)

    def of_mlp(self, layer: int) -> Level:
        """How an MLP is resolved: ``block``, ``neuron`` or ``expert``, which leaves a plain MLP whole."""
        return dict(self.overrides).get(f"m{layer}") or _of_mlp(self.level)

    @property
    def resolves_neurons(self) -> bool:
        """Whether any MLP is resolved into neurons."""
        return self.level == "neuron" or any(level == "neuron" for _, level in self.overrides)

    def at(self, component: str, level: Level) -> "Scope":
        """With a component at another level.

        Raises:
            GraphError: as when made.
        """
        return replace(self, overrides=(*self.overrides, (component, level)))


def component_named(name: str) -> Attention | Head | MLP:
    """The component of this name.

    Raises:
        GraphError: it is no attention block, head or MLP.
    """
    try:
        node = parse_writer(name)
    except GraphError:
        node = None
    if isinstance(node, Attention | Head | MLP) and node.place is None:
        return node
    raise GraphError(f"{name!r} is no component: expected a<layer>, a<layer>.h<head> or m<layer>")


def _of_attention(level: Level) -> Level:
    return "qkv" if level in ("neuron", "expert") else level


def _of_mlp(level: Level) -> Level:
    return level if level in ("neuron", "expert") else "block"


def _normal(level: Level, overrides: Iterable[Override]) -> tuple[Override, ...]:
    """Overrides in order, each component once, without those that change nothing."""
    levels: dict[Attention | Head | MLP, Level] = {}
    for name, wanted in overrides:
        component = component_named(name)
        if wanted not in COMPONENT_LEVELS[type(component)]:
            raise GraphError(f"{name} has no level {wanted!r}: choose {', '.join(COMPONENT_LEVELS[type(component)])}")
        if isinstance(component, Attention):
            # what was said of its heads before is said anew
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
                    raise GraphError(f"a{layer} is one node: {component} can have no level of its own; write a{layer}=head first")
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
