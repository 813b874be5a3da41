"""Drawing different prompts of words that are whole tokens: what the tasks made of templates share.

The same seed gives the same prompts, and fewer examples are the beginning of more.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from subcircuit.errors import PromptError, SettingsError
from subcircuit.tasks.encoding import Encoder
from subcircuit.tasks.task import PromptPair

_Offered = TypeVar("_Offered")
_TRIES = 1000


class TooFewPromptsError(SettingsError):
    """A task has fewer different prompts than were asked for; ``found`` is how many."""

    def __init__(self, task: str, found: int, wanted: int):
        super().__init__(
            f"{found} different prompts were found for {task} with the words that this tokenizer has, and {wanted} were "
            f"asked for: ask for {found} at most."
        )
        self.found = found


def draw_distinct(draw: Callable[[int], PromptPair], count: int, task: str) -> list[PromptPair]:
    """Pairs whose clean prompts are all different.

    Args:
        draw: a random pair, given how many there are already.
        count: how many are wanted.
        task: name for messages.

    Raises:
        SettingsError: not a positive number.
        TooFewPromptsError: no new prompt turns up in a thousand tries: there are no more, or few.
    """
    if count < 1:
        raise SettingsError(f"examples is {count}; it must be at least 1.")
    pairs: dict[str | None, PromptPair] = {}
    tries = 0
    while len(pairs) < count and tries < _TRIES:
        pair = draw(len(pairs))
        tries = tries + 1 if pair.clean in pairs else 0
        pairs.setdefault(pair.clean, pair)
    if len(pairs) < count:
        raise TooFewPromptsError(task, len(pairs), count)
    return list(pairs.values())


def whole_words(encoder: Encoder, words: Sequence[str]) -> tuple[str, ...]:
    """Those of the words that are a single token after a space, and not the one for unknown words."""
    unknown = encoder.tokenizer.unk_token_id
    (before,) = encoder.plain(["Then, the"])
    after = encoder.plain([f"Then, the {word}" for word in words])
    return tuple(word for word, ids in zip(words, after, strict=True) if ids[:-1] == before and ids[-1] != unknown)


def whole_pairs(encoder: Encoder, pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Those of the pairs of words of which both are a single token after a space."""
    whole = set(whole_words(encoder, [word for pair in pairs for word in pair]))
    return tuple(pair for pair in pairs if whole.issuperset(pair))


def check_enough(usable: Sequence[_Offered], offered: Sequence[_Offered], fewest: int, kind: str, task: str, model: str) -> None:
    """Refuse a tokenizer that leaves a task too few words.

    Raises:
        PromptError: fewer than ``fewest`` are usable.
    """
    if len(usable) < fewest:
        raise PromptError(
            f"{len(usable)} of {len(offered)} {kind} are one token in {model}, and {task} needs {fewest}: "
            "bring prompts of your own in a .jsonl file."
        )
