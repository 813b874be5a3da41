"""From text to token ids: how prompts begin, and which single token an answer is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from transformers import PreTrainedTokenizerBase

from subcircuit.errors import PromptError, SettingsError
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.roles import Span

BosPolicy: TypeAlias = Literal["auto", "always", "never"]


@dataclass(frozen=True, eq=False)
class Encoder:
    """A tokenizer with its decision on the beginning-of-sequence token.

    Args:
        tokenizer: the model's own.
        prefix: what every prompt begins with: no token or one.
        bos: the policy that ``prefix`` follows from.
        model: the model's name, for messages.
    """

    tokenizer: PreTrainedTokenizerBase
    prefix: tuple[int, ...]
    bos: BosPolicy
    model: str

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts, prefix included.

        Raises:
            PromptError: a text spells out the beginning-of-sequence token that the policy adds or forbids.
        """
        encoded = self.plain(texts)
        for text, ids in zip(texts, encoded, strict=True):
            if ids and ids[0] == self.tokenizer.bos_token_id and (self.prefix or self.bos == "never"):
                raise PromptError(
                    f"the prompt {_short(text)} begins with {self.tokenizer.bos_token!r} itself, and bos={self.bos!r} "
                    f"{'adds another' if self.prefix else 'forbids it'}: leave it out of the text."
                )
        return [[*self.prefix, *ids] for ids in encoded]

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, nothing added."""
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []

    def places(self, text: str, spans: Sequence[Span]) -> dict[str, tuple[int, ...]]:
        """The positions of the tokens that overlap each role's characters, prefix counted; none where the tokenizer cannot tell."""
        if not (spans and self.tokenizer.is_fast):
            return {}
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        places: dict[str, tuple[int, ...]] = {}
        for span in spans:
            over = [p for p, (start, stop) in enumerate(offsets, len(self.prefix)) if start < span.stop and span.start < stop]
            places[span.role] = (*places.get(span.role, ()), *over)
        return places

    def show(self, ids: Sequence[int]) -> str:
        """Tokens as text, each in quotes."""
        return " ".join(repr(self.tokenizer.decode([token])) for token in ids)


def make_encoder(model: Transformer, bos: BosPolicy = "auto") -> Encoder:
    """The model's tokenizer under a policy.

    Args:
        model: whose tokenizer to use.
        bos: ``"auto"`` begins prompts as the tokenizer begins plain text, ``"always"`` with exactly one
            beginning-of-sequence token, ``"never"`` without.

    Raises:
        PromptError: the model has no tokenizer.
        SettingsError: an unknown policy, or one that the tokenizer cannot follow.
    """
    if model.tokenizer is None:
        raise PromptError(f"{model.name} has no tokenizer, and this task is made of text: pass one when loading the model.")
    return Encoder(model.tokenizer, bos_prefix(model.tokenizer, bos, model.name), bos, model.name)


def bos_prefix(tokenizer: PreTrainedTokenizerBase | None, bos: str, model: str) -> tuple[int, ...]:
    """The tokens that prompts begin with under a policy: none or one. Without a tokenizer ``"auto"`` adds none.

    Raises:
        SettingsError: an unknown policy, or one that the tokenizer cannot follow.
    """
    if bos not in get_args(BosPolicy):
        raise SettingsError(f"bos is {bos!r}; it must be one of {', '.join(get_args(BosPolicy))}.")
    if bos == "always":
        token = None if tokenizer is None else tokenizer.bos_token_id
        if not isinstance(token, int):
            raise SettingsError(f"bos='always', but {model} has no beginning-of-sequence token: use 'auto' or 'never'.")
        return (token,)
    return () if bos == "never" or tokenizer is None else _automatic_prefix(tokenizer, model)


def _automatic_prefix(tokenizer: PreTrainedTokenizerBase, model: str) -> tuple[int, ...]:
    bare, full = (list(tokenizer("The", add_special_tokens=special)["input_ids"]) for special in (False, True))
    added = len(full) - len(bare)
    if added > 1 or full[added:] != bare:
        # a prompt that ends in an end-of-sequence token has nothing left to predict
        raise SettingsError(
            f"the tokenizer of {model} turns 'The' into {tokenizer.convert_ids_to_tokens(full)}: more than a token in front. "
            "Choose bos='always' or bos='never'."
        )
    return tuple(full[:added])


def answer_tokens(encoder: Encoder, prompt: str, answers: Sequence[str], label: str) -> tuple[int, ...]:
    """The token that each answer is when it follows the prompt.

    Where prompt and answer share a token across their border (a prompt that ends in a space), the answer is tokenised alone.

    Raises:
        PromptError: an answer is empty, is several tokens, or lacks its leading space. It lacks one where two letters would
            meet ("gave it to" + "Mary") while " Mary" is a single token.
    """
    before = encoder.plain([prompt])[0]
    plain = encoder.plain([prompt + answer for answer in answers])
    spaced = encoder.plain([f"{prompt} {answer}" for answer in answers])
    found = []
    for answer, joined, with_space in zip(answers, plain, spaced, strict=True):
        if not answer:
            raise PromptError(f"{label}: an answer is empty.")
        ids = joined[len(before) :] if joined[: len(before)] == before else encoder.plain([answer])[0]
        if _lacks_space(prompt, answer, len(ids) == 1) and with_space[:-1] == before:
            hint = f"did you mean {' ' + answer!r} with a leading space?"
            raise PromptError(f"{label}: answer {answer!r} would continue the prompt's last word; {hint}")
        if len(ids) != 1:
            shown = f"{len(ids)} tokens ({encoder.show(ids)}) in {encoder.model}"
            raise PromptError(f"{label}: answer {answer!r} is {shown}; answers must be one token each.")
        found.append(ids[0])
    return tuple(found)


def _lacks_space(prompt: str, answer: str, single: bool) -> bool:
    if answer[0].isspace() or prompt[-1:].isspace():
        return False
    # scripts without upper and lower case (Chinese, Japanese) write no spaces; years and brackets need none
    return not single or all(letter.islower() or letter.isupper() for letter in (prompt[-1:], answer[0]))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
