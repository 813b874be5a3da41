"""Scope: at which level of abstraction the model is resolved into nodes."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from subcircuit.errors import UnknownNameError

Level: TypeAlias = Literal["block", "head", "qkv"]
KeyValues: TypeAlias = Literal["per_query_head", "grouped"]

LEVELS: tuple[Level, ...] = get_args(Level)
KEY_VALUES: tuple[KeyValues, ...] = get_args(KeyValues)


@dataclass(frozen=True, slots=True)
class Scope:
    """What counts as a node.

    Args:
        level: ``block``: attention blocks and MLPs; ``head``: heads with one input each, and MLPs; ``qkv``: heads
            whose query, key and value inputs are readers of their own, and MLPs.
        kv: under grouped-query attention at level ``qkv``, one key and value reader per query head (as published
            circuits count) or one per key/value head.
        split_embeddings: token and position embeddings are separate writers (models with learned positions).
    """

    level: Level = "qkv"
    kv: KeyValues = "per_query_head"
    split_embeddings: bool = False

    @staticmethod
    def named(level: str = "qkv", kv: str = "per_query_head", split_embeddings: bool = False) -> "Scope":
        """A scope from words that a user wrote.

        Raises:
            UnknownNameError: no such level, or no such way to count keys and values.
        """
        levels: dict[str, Level] = {known: known for known in LEVELS}
        key_values: dict[str, KeyValues] = {known: known for known in KEY_VALUES}
        if level not in levels:
            raise UnknownNameError("scope", level, LEVELS)
        if kv not in key_values:
            raise UnknownNameError("kv", kv, KEY_VALUES)
        return Scope(levels[level], key_values[kv], split_embeddings)
