"""Batches of tokenised prompts, and the vocabulary of their token ids.

Prompts that were tokenised for one model are noise to a model with another vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Prompts of possibly unequal length, padded on the right.

    Causal models attend backwards only, so padding after a prompt's end changes nothing before it: padded and unpadded
    runs agree at every real position, and no attention mask is needed. Models that are not causal run
    prompts of one length only.

    Args:
        ids: token ids; past a prompt's end any id, 0 by convention.
        lengths: real tokens per prompt.
        positions: index of each position among a graph's positions, if its nodes are resolved by position; any index past a prompt's end.
    """

    ids: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, " batch"]
    positions: Int[Tensor, "batch pos"] | None = None

    def __repr__(self) -> str:
        return f"Tokens({len(self)} prompts of up to {self.ids.shape[1]} tokens)"

    @staticmethod
    def from_lists(prompts: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> "Tokens":
        """Pad lists of ids into one batch."""
        lengths = torch.tensor([len(p) for p in prompts])
        ids = torch.zeros(len(prompts), max(len(p) for p in prompts), dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        return Tokens(ids.to(device), lengths.to(device))

    def to_lists(self) -> list[list[int]]:
        """The ids of each prompt, without padding."""
        return [ids[:length] for ids, length in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)]

    def to(self, device: torch.device | str) -> "Tokens":
        """The same prompts on another device."""
        positions = None if self.positions is None else self.positions.to(device)
        return Tokens(self.ids.to(device), self.lengths.to(device), positions)

    def until(self, n_pos: int) -> "Tokens":
        """The first positions of every prompt, up to a given number."""
        positions = None if self.positions is None else self.positions[:, :n_pos]
        return Tokens(self.ids[:, :n_pos], self.lengths.clamp(max=n_pos), positions)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, examples: slice | Bool[Tensor, " batch"]) -> "Tokens":
        """Some of the prompts, cut to the longest of them."""
        lengths = self.lengths[examples]
        longest = int(lengths.max())
        positions = None if self.positions is None else self.positions[examples, :longest]
        return Tokens(self.ids[examples, :longest], lengths, positions)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The vocabulary of a model.

    Args:
        model: the model's name, for messages.
        tokenizer: SHA-256 of every token with its id; None for a model without a tokenizer.
        size: token ids that the model has embeddings for.
    """

    model: str
    tokenizer: str | None
    size: int


def digest_of_tokenizer(tokenizer: "PreTrainedTokenizerBase | None") -> str | None:
    """SHA-256 of every token with its id; None where there is no tokenizer."""
    return None if tokenizer is None else sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
