"""Nodes and edges of the computational graph, and the grammar of the names of the package's own nodes.

    embed  token_embed  pos_embed     what the embedding writes
    a5.h3  a5  m5  m5.n1021           writers: a head, a whole attention block, an MLP, one neuron of it
    m5.e3  m5.shared                  writers and readers: an expert of a mixture, the expert of all positions
    m5<router>                        a reader: what decides which experts a position goes to
    a5.h3<q>  a5.h3<k>  a5.h3<v>      readers: a head's query, key and value inputs
    a5.h3  a5  m5  m5.n1021  logits   readers: a head, a block, an MLP, one neuron, the unembedding
    a1.h0->a5.h3<k>                   an edge: writer -> reader
    a5.h3@S2  a5.h3<k>@7              a node at one position: at a token role, or at an index of prompts that line up
    a1.h0@S2->a5.h3<k>@S2             an edge at a position: the residual stream is per position, so both ends have the same

``str(node)`` prints a name and ``parse_writer``, ``parse_reader``, ``parse_edge`` read it back. A graph also reads the names of nodes
that its units bring from elsewhere (``Graph.find``).
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeAlias, TypeVar

from subcircuit.errors import GraphError
from subcircuit.model.config import HeadPart

Kind: TypeAlias = Literal["embed", "attention", "q", "k", "v", "mlp", "logits"]


@dataclass(frozen=True, slots=True)
class Node(ABC):
    """A writer, a reader, or both under one name, which is its text.

    Args:
        layer: None for the embedding and the logits.
        position: a token role, or an index of prompts that line up; None is all positions.
    """

    layer: int | None
    position: str | None = field(default=None, kw_only=True)

    noun: ClassVar[str] = "node"
    """The word for the node in explanations."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The node's name without its position, unique within its graph."""

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """The part of the model that the node belongs to; for a head's query, key or value input, which of the three."""

    @property
    def column(self) -> int | None:
        """The index of the attention head that the node is, or is an input of; None for all other nodes."""
        return None

    @property
    def neurons(self) -> slice | None:
        """The neurons of its layer's MLP that the node contains (a whole MLP includes the biases); None for all other nodes."""
        return None

    def __str__(self) -> str:
        return self.name if self.position is None else f"{self.name}@{self.position}"


Writer: TypeAlias = Node
Reader: TypeAlias = Node
NodeT = TypeVar("NodeT", bound=Node)


@dataclass(frozen=True, slots=True)
class Embed(Node):
    """What the embedding writes: all of it, or its token or position part where the scope splits them."""

    layer: None = field(default=None, init=False)
    part: Literal["token", "pos"] | None = None

    noun = "embedding"

    @property
    def name(self) -> str:
        """``embed``, or the name of a part."""
        return "embed" if self.part is None else f"{self.part}_embed"

    @property
    def kind(self) -> Kind:
        """The embedding."""
        return "embed"


@dataclass(frozen=True, slots=True)
class Head(Node):
    """What one attention head writes."""

    layer: int
    head: int

    noun = "head"

    @property
    def name(self) -> str:
        """``a5.h3``."""
        return f"a{self.layer}.h{self.head}"

    @property
    def kind(self) -> Kind:
        """Attention."""
        return "attention"

    @property
    def column(self) -> int:
        """The head's index."""
        return self.head


@dataclass(frozen=True, slots=True)
class Attention(Node):
    """A whole attention block, as writer or as reader."""

    layer: int

    noun = "attention block"

    @property
    def name(self) -> str:
        """``a5``."""
        return f"a{self.layer}"

    @property
    def kind(self) -> Kind:
        """Attention."""
        return "attention"


@dataclass(frozen=True, slots=True)
class MLP(Node):
    """An MLP, as writer or as reader."""

    layer: int

    noun = "MLP"

    @property
    def name(self) -> str:
        """``m5``."""
        return f"m{self.layer}"

    @property
    def kind(self) -> Kind:
        """An MLP."""
        return "mlp"

    @property
    def neurons(self) -> slice:
        """All neurons; the node includes the biases."""
        return slice(None)


@dataclass(frozen=True, slots=True)
class Neuron(Node):
    """One neuron of an MLP, as writer (its row of ``W_out``) or as reader (its rows of ``W_in`` and ``W_gate``)."""

    layer: int
    neuron: int

    noun = "neuron"

    @property
    def name(self) -> str:
        """``m5.n1021``."""
        return f"m{self.layer}.n{self.neuron}"

    @property
    def kind(self) -> Kind:
        """A part of an MLP."""
        return "mlp"

    @property
    def neurons(self) -> slice:
        """The neuron itself."""
        return slice(self.neuron, self.neuron + 1)


@dataclass(frozen=True, slots=True)
class Expert(Node):
    """One expert of a mixture, as writer (times its share) or as reader; ``expert`` None is the one of all positions."""

    layer: int
    expert: int | None

    noun = "expert"

    @property
    def name(self) -> str:
        """``m5.e3`` or ``m5.shared``."""
        return f"m{self.layer}.shared" if self.expert is None else f"m{self.layer}.e{self.expert}"

    @property
    def kind(self) -> Kind:
        """A part of an MLP."""
        return "mlp"


@dataclass(frozen=True, slots=True)
class RouterInput(Node):
    """What the router of a mixture of experts reads."""

    layer: int

    @property
    def name(self) -> str:
        """``m5<router>``."""
        return f"m{self.layer}<router>"

    @property
    def kind(self) -> Kind:
        """A part of an MLP."""
        return "mlp"


@dataclass(frozen=True, slots=True)
class HeadInput(Node):
    """What one head reads: its query, key or value input, or (``part`` None) one input for all three."""

    layer: int
    head: int
    part: HeadPart | None = None

    @property
    def name(self) -> str:
        """``a5.h3<q>`` or ``a5.h3``."""
        return f"a{self.layer}.h{self.head}" + ("" if self.part is None else f"<{self.part}>")

    @property
    def kind(self) -> Kind:
        """Its part if it has one, otherwise attention."""
        return self.part or "attention"

    @property
    def column(self) -> int:
        """The head's index; the key/value head's index if heads share this input."""
        return self.head


@dataclass(frozen=True, slots=True)
class Logits(Node):
    """What the final norm and the unembedding read."""

    layer: None = field(default=None, init=False)

    noun = "logits"

    @property
    def name(self) -> str:
        """``logits``."""
        return "logits"

    @property
    def kind(self) -> Kind:
        """The logits."""
        return "logits"


def at(node: NodeT, position: str | None) -> NodeT:
    """The node at a position; None gives the node at all positions."""
    return replace(node, position=position)


def bare(node: NodeT) -> NodeT:
    """The node at all positions."""
    return node if node.position is None else replace(node, position=None)


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
_POSITION = re.compile(rf"{_NUMBER}|[A-Za-z_][A-Za-z0-9_+]{{0,31}}")
_PARTS: dict[str | None, HeadPart | None] = {None: None, "q": "q", "k": "k", "v": "v"}
_EMBEDS: dict[str, Embed] = {str(e): e for e in (Embed(), Embed("token"), Embed("pos"))}


def is_position(name: str) -> bool:
    """Whether a text can name a position: an index, or a name that begins with a letter."""
    return _POSITION.fullmatch(name) is not None


def parse_writer(name: str) -> Writer:
    """The writer of this name.

    Raises:
        GraphError: not a writer's name.
    """
    whole, position = parted(name)
    match _EMBEDS.get(whole) or _parse_component(whole):
        case HeadInput(layer, head, None):
            return Head(layer, head, position=position)
        case Embed() | Attention() | MLP() | Neuron() | Expert() as node:
            return at(node, position)
        case _:
            pass
    expected = (
        "embed, token_embed, pos_embed, a<layer>, a<layer>.h<head>, m<layer>, m<layer>.n<neuron>, m<layer>.e<expert> or "
        "m<layer>.shared, and @<position> after it where nodes have positions"
    )
    raise GraphError(f"{name!r} is not a writer: expected {expected}")


def parse_reader(name: str) -> Reader:
    """The reader of this name.

    Raises:
        GraphError: not a reader's name.
    """
    whole, position = parted(name)
    reader = Logits() if whole == "logits" else _parse_component(whole)
    if reader is None:
        expected = (
            "a<layer>, a<layer>.h<head>, a<layer>.h<head><q|k|v>, m<layer>, m<layer>.n<neuron>, m<layer>.e<expert>, "
            "m<layer>.shared, m<layer><router> or logits, and @<position> after it where nodes have positions"
        )
        raise GraphError(f"{name!r} is not a reader: expected {expected}")
    return at(reader, position)


def parted(name: str) -> tuple[str, str | None]:
    """A node's name without its position, and the position; an invalid position stays in the name."""
    whole, sign, position = name.partition("@")
    return (whole, position) if sign and is_position(position) else (name, None)


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
