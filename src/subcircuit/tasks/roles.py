"""Token roles: the function of each position in a task's prompts, such as the indirect object or the position of the answer.

A task may name some positions of each prompt; all others are ``rest``. Two names have one meaning in every task that declares
roles. ``END`` is the positions at which answers are read, even if they have another name, unless the task itself places END.
``START`` is a prompt's first token, unless it has another role. Clean and corrupted prompts line up, so they share their roles.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from string import Formatter

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from subcircuit.errors import UnknownNameError

REST, START, END = "rest", "START", "END"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_+]{0,31}")


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start`` to ``stop`` (exclusive) of a prompt's text: the tokens that overlap them have the role."""

    role: str
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Roles:
    """The role of every position of a batch of prompts.

    Args:
        names: the roles; the first is ``rest``.
        of: the index into ``names`` of each position's role; 0 past a prompt's end.
    """

    names: tuple[str, ...]
    of: Int[Tensor, "batch pos"]

    def __post_init__(self) -> None:
        assert self.names[0] == REST and len(set(self.names)) == len(self.names)

    @staticmethod
    def from_positions(
        named: Sequence[Mapping[str, Sequence[int]]], lengths: Sequence[int], device: torch.device | str = "cpu"
    ) -> "Roles":
        """Roles from the positions that each prompt names; if a position has several names, the last counts."""
        names = (REST, *dict.fromkeys(name for prompt in named for name in prompt if name != REST))
        of = torch.zeros(len(named), max(lengths), dtype=torch.long)
        for row, prompt in zip(of, named, strict=True):
            for name, positions in prompt.items():
                row[list(positions)] = names.index(name)
        return Roles(names, of.to(device))

    @property
    def digest(self) -> str:
        """SHA-256 of the names and of the role of every position."""
        return sha256(repr((self.names, self.of.tolist())).encode()).hexdigest()

    def mask(self, name: str) -> Bool[Tensor, "batch pos"]:
        """A mask of a role's positions. The mask of ``rest`` includes positions past a prompt's end.

        Raises:
            UnknownNameError: the task declares no such role.
        """
        if name not in self.names:
            raise UnknownNameError("role", name, self.names)
        return self.of == self.names.index(name)

    def of_examples(self, wanted: Bool[Tensor, " batch"], n_pos: int) -> "Roles":
        """The roles of some prompts, the longest of which has ``n_pos`` tokens."""
        return Roles(self.names, self.of[wanted, :n_pos])

    def to(self, device: torch.device | str) -> "Roles":
        """The same roles on another device."""
        return Roles(self.names, self.of.to(device))


def is_role(name: str) -> bool:
    """Whether a role can have this name: it begins with a letter, and no other name of a node can contain it."""
    return _NAME.fullmatch(name) is not None


def filled(template: str, roles: Mapping[str, str], /, **words: str) -> tuple[str, tuple[Span, ...]]:
    """A template with words in its fields, and the spans of the words that have a role.

    Args:
        roles: the role of each field that has one, by the field's name.

    Examples:
        >>> filled("{a} met {b}", {"b": "S"}, a="Mary", b="John")
        ('Mary met John', (Span(role='S', start=9, stop=13),))
    """
    text, spans = "", []
    for literal, field, _, _ in Formatter().parse(template):
        text += literal
        if field is not None:
            start, text = len(text), text + words[field]
            spans += [Span(roles[field], start, len(text))] if field in roles else []
    return text, tuple(spans)


def with_ends(named: Mapping[str, Sequence[int]], answers: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The positions that a prompt names, with START and END, each position with one role.

    Args:
        answers: positions at which the prompt's answers are read.
    """
    ends = set() if END in named else set(answers)
    kept = {name: tuple(p for p in positions if p not in ends) for name, positions in named.items()}
    taken = {position for positions in kept.values() for position in positions} | ends
    first = {} if 0 in taken else {START: (0,)}
    return {**first, **kept, **({END: tuple(sorted(ends))} if ends else {})}
