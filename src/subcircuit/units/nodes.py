"""Nodes and edges of the computational graph, and the one grammar of their names.

    embed  token_embed  pos_embed     what the embedding writes
    a5.h3  a5  m5  m5.n1021           writers: a head, a whole attention block, an MLP, one neuron of it
    m5.e3  m5.shared                  writers and readers: an expert of a mixture, the expert of all positions
    m5<router>                        a reader: what decides which experts a position goes to
    a5.h3<q>  a5.h3<k>  a5.h3<v>      readers: a head's query, key and value inputs
    a5.h3  a5  m5  m5.n1021  logits   readers: a head, a block, an MLP, one neuron, the unembedding
    a1.h0->a5.h3<k>                   an edge: writer -> reader
    a5.h3@S2  a5.h3<k>@7              a node at one place: at a token role, or at a position of prompts that line up
    a1.h0@S2->a5.h3<k>@S2             an edge at a place: the residual stream is per position, so both ends have the same

``str(node)`` prints a name and ``parse_writer``, ``parse_reader``, ``parse_edge`` read it back.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeVar

from subcircuit.errors import GraphError
from subcircuit.model.config import HeadPart


def _at_place(name: str, place: str | None) -> str:
    return name if place is None else f"{name}@{place}"


@dataclass(frozen=True, slots=True)
class Embed:
    """What the embedding writes: all of it, or its token or position part where the scope splits them."""

    part: Literal["token", "pos"] | None = None
    place: str | None = None

    def __str__(self) -> str:
        return _at_place("embed" if self.part is None else f"{self.part}_embed", self.place)


@dataclass(frozen=True, slots=True)
class Head:
    """What one attention head writes."""

    layer: int
    head: int
    place: str | None = None

    def __str__(self) -> str:
        return _at_place(f"a{self.layer}.h{self.head}", self.place)


@dataclass(frozen=True, slots=True)
class Attention:
    """A whole attention block, as writer or as reader."""

    layer: int
    place: str | None = None

    def __str__(self) -> str:
        return _at_place(f"a{self.layer}", self.place)


@dataclass(frozen=True, slots=True)
class MLP:
    """An MLP, as writer or as reader."""

    layer: int
    place: str | None = None

    def __str__(self) -> str:
        return _at_place(f"m{self.layer}", self.place)


@dataclass(frozen=True, slots=True)
class Neuron:
    """One neuron of an MLP, as writer (its row of ``W_out``) or as reader (its rows of ``W_in`` and ``W_gate``)."""

    layer: int
    neuron: int
    place: str | None = None

    def __str__(self) -> str:
        return _at_place(f"m{self.layer}.n{self.neuron}", self.place)


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert of a mixture, as writer (times its share) or as reader; ``expert`` None is the one of all positions."""

    layer: int
    expert: int | None
    place: str | None = None

    def __str__(self) -> str:
        return _at_place(f"m{self.layer}.shared" if self.expert is None else f"m{self.layer}.e{self.expert}", self.place)


@dataclass(frozen=True, slots=True)
class RouterInput:
    """What the router of a mixture of experts reads."""

    layer: int
    place: str | None = None

    def __str__(self) -> str:
        return _at_place(f"m{self.layer}<router>", self.place)


@dataclass(frozen=True, slots=True)
class HeadInput:
    """What one head reads: its query, key or value input, or (``part`` None) one input for all three."""

    layer: int
    head: int
    part: HeadPart | None = None
    place: str | None = None

    def __str__(self) -> str:
        return _at_place(f"a{self.layer}.h{self.head}" + ("" if self.part is None else f"<{self.part}>"), self.place)


@dataclass(frozen=True, slots=True)
class Logits:
    """What the final norm and the unembedding read."""

    place: str | None = None

    def __str__(self) -> str:
        return _at_place("logits", self.place)


Writer: TypeAlias = Embed | Head | Attention | MLP | Neuron | Expert
Reader: TypeAlias = HeadInput | Attention | MLP | Neuron | Expert | RouterInput | Logits
NodeT = TypeVar("NodeT", bound=Writer | Reader)


def at(node: NodeT, place: str | None) -> NodeT:
    """A node at a place, or (None) at all of them."""
    return replace(node, place=place)


def bare(node: NodeT) -> NodeT:
    """A node at all places."""
    return node if node.place is None else replace(node, place=None)


@dataclass(frozen=True, slots=True)
class Edge:
    """A writer's contribution to a reader's input."""

    writer: Writer
    reader: Reader

    def __str__(self) -> str:
        return f"{self.writer}->{self.reader}"


_NUMBER = r"(0|[1-9][0-9]{0,5})"
_BLOCK = re.compile(rf"(a|m){_NUMBER}")
_HEAD = re.compile(rf"a{_NUMBER}\.h{_NUMBER}(?:<([qkv])>)?")
_NEURON = re.compile(rf"m{_NUMBER}\.n{_NUMBER}")
_EXPERT = re.compile(rf"m{_NUMBER}\.(?:e{_NUMBER}|shared)")
_ROUTER = re.compile(rf"m{_NUMBER}<router>")
_PLACE = re.compile(rf"{_NUMBER}|[A-Za-z_][A-Za-z0-9_+]{{0,31}}")
_PARTS: dict[str | None, HeadPart | None] = {None: None, "q": "q", "k": "k", "v": "v"}
_EMBEDS: dict[str, Embed] = {str(e): e for e in (Embed(), Embed("token"), Embed("pos"))}


def is_place(name: str) -> bool:
    """Whether a place can have this name: a position's number, or a name that begins with a letter."""
    return _PLACE.fullmatch(name) is not None


def parse_writer(name: str) -> Writer:
    """The writer of this name.

    Raises:
        GraphError: not a writer's name.
    """
    whole, place = _parted(name)
    match _EMBEDS.get(whole) or _parse_component(whole):
        case HeadInput(layer, head, None):
            return Head(layer, head, place)
        case Embed() | Attention() | MLP() | Neuron() | Expert() as node:
            return at(node, place)
    expected = (
        "embed, token_embed, pos_embed, a<layer>, a<layer>.h<head>, m<layer>, m<layer>.n<neuron>, m<layer>.e<expert> or "
        "m<layer>.shared, and @<place> after it where nodes have places"
    )
    raise GraphError(f"{name!r} is not a writer: expected {expected}")


def parse_reader(name: str) -> Reader:
    """The reader of this name.

    Raises:
        GraphError: not a reader's name.
    """
    whole, place = _parted(name)
    reader = Logits() if whole == "logits" else _parse_component(whole)
    if reader is None:
        expected = (
            "a<layer>, a<layer>.h<head>, a<layer>.h<head><q|k|v>, m<layer>, m<layer>.n<neuron>, m<layer>.e<expert>, "
            "m<layer>.shared, m<layer><router> or logits, and @<place> after it where nodes have places"
        )
        raise GraphError(f"{name!r} is not a reader: expected {expected}")
    return at(reader, place)


def _parted(name: str) -> tuple[str, str | None]:
    """A node's name without its place, and the place; what cannot be one stays where it is."""
    whole, sign, place = name.partition("@")
    return (whole, place) if sign and is_place(place) else (name, None)


def parse_edge(name: str) -> Edge:
    """The edge of this name.

    Raises:
        GraphError: not ``writer->reader``.
    """
    writer, arrow, reader = name.partition("->")
    if not arrow:
        raise GraphError(f"{name!r} is not an edge: expected writer->reader, for example a1.h0->a5.h3<k>")
    return Edge(parse_writer(writer), parse_reader(reader))


def _parse_component(name: str) -> HeadInput | Attention | MLP | Neuron | Expert | RouterInput | None:
    if match := _HEAD.fullmatch(name):
        layer, head, part = match.groups()
        return HeadInput(int(layer), int(head), _PARTS[part])
    if match := _NEURON.fullmatch(name):
        layer, neuron = match.groups()
        return Neuron(int(layer), int(neuron))
    if match := _EXPERT.fullmatch(name):
        layer, expert = match.groups()
        return Expert(int(layer), None if expert is None else int(expert))
    if match := _ROUTER.fullmatch(name):
        return RouterInput(int(match[1]))
    if match := _BLOCK.fullmatch(name):
        kind, layer = match.groups()
        return Attention(int(layer)) if kind == "a" else MLP(int(layer))
    return None
