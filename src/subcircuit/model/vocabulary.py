"""What token ids mean: prompts that were tokenised for one model are noise to a model with another vocabulary."""

from dataclasses import dataclass
from hashlib import sha256

from transformers import PreTrainedTokenizerBase


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


def digest_of_tokenizer(tokenizer: PreTrainedTokenizerBase | None) -> str | None:
    """SHA-256 of every token with its id; None where there is no tokenizer."""
    return None if tokenizer is None else sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
