"""Conversion of text to token ids: the beginning of prompts, and the single token of each answer.

The token of an answer is the one that, appended to the prompt's tokens, decodes to the prompt followed by the answer. It can
differ from the token of the answer alone: some tokenizers put a space before every text, and some join a prompt's last space
with the next word. A token for unknown words is never an answer and never part of a prompt.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from tokenizers.pre_tokenizers import ByteLevel

from subcircuit.errors import PromptError, SettingsError, UnknownNameError
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.roles import Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BosPolicy: TypeAlias = Literal["auto", "always", "never"]


@dataclass(frozen=True, eq=False)
class Encoder:
    """A tokenizer with its decision on the beginning-of-sequence token.

    Args:
        tokenizer: the model's own.
        prefix: the tokens before every prompt: none or one.
        bos: the policy that determines ``prefix``.
        model: the model's name, for messages.
    """

    tokenizer: "PreTrainedTokenizerBase"
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
                    f"the prompt {_short(text)} already begins with {self.tokenizer.bos_token!r}, and bos={self.bos!r} "
                    f"{'adds another' if self.prefix else 'forbids it'}: remove it from the text."
                )
        return [[*self.prefix, *ids] for ids in encoded]

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, nothing added.

        Raises:
            PromptError: the tokenizer has no token for a word, and none for unknown words either.
        """
        try:
            return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        except Exception as why:  # the Rust code of tokenizers raises no narrower class
            shown = ", ".join(_short(text) for text in texts[:2]) + (", …" if len(texts) > 2 else "")
            raise PromptError(f"the tokenizer of {self.model} cannot read {shown}: {why}.") from None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, with special tokens spelt out and all spaces kept."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def unread(self, text: str) -> str | None:
        """The first word of a text that is not in the vocabulary; None if every word is.

        Tokenizers turn such a word into the token for unknown words, or leave it out.
        """
        if not self._misses(text):
            return None
        return next((word for word in text.split() if self._misses(word)), text)

    def _misses(self, text: str) -> bool:
        try:
            (ids,) = self.plain([text])
        except PromptError:
            return True
        unknown = [token for token in ids if token == self.tokenizer.unk_token_id]
        if len(unknown) > text.count(str(self.tokenizer.unk_token)):
            return True
        read = iter(_letters(self.decode(ids)))
        return not all(letter in read for letter in _letters(text))

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
        UnknownNameError: no policy has this name.
        SettingsError: the tokenizer cannot follow the policy.
    """
    if model.tokenizer is None:
        raise PromptError(
            f"{model.name} has no tokenizer, and the prompts of this task are text. Use the task induction, whose prompts are token ids; "
            f"{_way_to_a_tokenizer(model)}."
        )
    return Encoder(model.tokenizer, bos_prefix(model.tokenizer, bos, model.name), bos, model.name)


def bos_policy(name: str) -> BosPolicy:
    """The policy of this name.

    Raises:
        UnknownNameError: no policy has this name.
    """
    known: tuple[BosPolicy, ...] = get_args(BosPolicy)
    if name not in known:
        raise UnknownNameError("bos", name, known)
    return known[known.index(name)]


def _way_to_a_tokenizer(model: Transformer) -> str:
    # importing it imports transformers, for which showing a circuit does not wait
    from subcircuit.model.load.builtin import SHIPPED

    if any(model.folder == shipped.folder for shipped in SHIPPED.values()):
        # it was trained on token ids, and no text has any
        return "or choose another model"
    beside = "" if model.folder is None else "or put the tokenizer's files into the model's directory; "
    return f"{beside}or, in Python, use load_model(…, tokenizer=…)"


def bos_prefix(tokenizer: "PreTrainedTokenizerBase | None", bos: str, model: str) -> tuple[int, ...]:
    """The tokens that prompts begin with under a policy: none or one. Without a tokenizer ``"auto"`` adds none.

    Raises:
        UnknownNameError: no policy has this name.
        SettingsError: the tokenizer cannot follow the policy.
    """
    bos_policy(bos)
    if bos == "always":
        token = None if tokenizer is None else tokenizer.bos_token_id
        if not isinstance(token, int):
            raise SettingsError(f"bos='always', but {model} has no beginning-of-sequence token: use 'auto' or 'never'.")
        return (token,)
    return () if bos == "never" or tokenizer is None else _automatic_prefix(tokenizer, model)


def _automatic_prefix(tokenizer: "PreTrainedTokenizerBase", model: str) -> tuple[int, ...]:
    bare, full = (_sample(tokenizer, special) for special in (False, True))
    added = len(full) - len(bare)
    if added > 1 or full[added:] != bare:
        # a prompt that ends in an end-of-sequence token has nothing left to predict
        raise SettingsError(
            f"the tokenizer of {model} turns 'The' into {tokenizer.convert_ids_to_tokens(full)}, which adds more than one token in front: "
            "choose bos='always' or bos='never'."
        )
    return tuple(full[:added])


def _sample(tokenizer: "PreTrainedTokenizerBase", special: bool) -> list[int]:
    """Token ids of a short text; no ids if the vocabulary has neither the word nor a token for unknown words."""
    try:
        return list(tokenizer("The", add_special_tokens=special)["input_ids"])
    except Exception:  # the Rust code of tokenizers raises no narrower class
        return list(tokenizer("", add_special_tokens=special)["input_ids"])


def ordinary_tokens(model: Transformer) -> list[int]:
    """Ids of ordinary text: no special tokens, no added tokens, and no rows that only pad the embedding."""
    if model.tokenizer is None:
        return list(range(model.config.vocab))
    special = {*model.tokenizer.all_special_ids, *model.tokenizer.added_tokens_decoder}
    return [token for token in range(min(model.config.vocab, len(model.tokenizer))) if token not in special]


def answer_tokens(encoder: Encoder, prompt: str, answers: Sequence[str], label: str) -> tuple[int, ...]:
    """The token of each answer after its prompt: the prompt's tokens and this token decode to prompt and answer.

    Raises:
        PromptError: an answer is empty, is several tokens, is not in the vocabulary, or lacks its leading space. It lacks one
            where two letters would meet ("gave it to" + "Mary") while " Mary" is a single token.
    """
    try:
        before = encoder.plain([prompt])[0]
        plain, spaced = (encoder.plain([f"{prompt}{space}{answer}" for answer in answers]) for space in ("", " "))
    except PromptError as why:
        raise PromptError(f"{label}: {why}") from None
    found = []
    for answer, joined, with_space in zip(answers, plain, spaced, strict=True):
        if not answer:
            raise PromptError(f"{label}: an answer is empty.")
        token = _token_after(encoder, prompt, before, joined, answer)
        if _lacks_space(prompt, answer, token is not None) and _is_next(encoder, before, with_space):
            what = (
                "would continue the prompt's last word"
                if _letters_meet(prompt, answer)
                else f"is no single token after {prompt[-1:]!r}"
            )
            raise PromptError(f"{label}: answer {answer!r} {what}; did you mean {' ' + answer!r} with a leading space?")
        if token is None:
            raise PromptError(f"{label}: answer {answer!r} {_why_no_token(encoder, prompt, before, joined, answer)}")
        found.append(token)
    return tuple(found)


def answer_token(encoder: Encoder, prompt: str, answer: str) -> int | None:
    """The token that, appended to the prompt's tokens, decodes to prompt and answer; None if no single token does."""
    before, joined = encoder.plain([prompt, prompt + answer])
    return _token_after(encoder, prompt, before, joined, answer)


def _token_after(encoder: Encoder, prompt: str, before: Sequence[int], joined: Sequence[int], answer: str) -> int | None:
    # as the tokenizer writes it too: it may change letters, or begin every text with a space
    written = {prompt + answer, encoder.decode(before) + answer, encoder.decode(joined)}
    tokenizer, unknown = encoder.tokenizer, encoder.tokenizer.unk_token_id
    alone = encoder.plain([answer])[0]
    candidates = [*joined[-1:], *(alone if len(alone) == 1 else ()), *map(tokenizer.convert_tokens_to_ids, _spellings(answer))]
    for token in dict.fromkeys(candidates):
        if isinstance(token, int) and token != unknown and encoder.decode([*before, token]) in written:
            return token
    return None


def _spellings(text: str) -> tuple[str, ...]:
    """Spellings of a text in vocabularies: unchanged, byte by byte, with ▁ for spaces, as the end of a word."""
    as_bytes = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return (text, "".join(piece for piece, _ in as_bytes), text.replace(" ", "▁"), f"##{text}")


def _is_next(encoder: Encoder, before: Sequence[int], ids: Sequence[int]) -> bool:
    """Whether a text is the prompt followed by one known token."""
    return list(ids[:-1]) == list(before) and ids[-1] != encoder.tokenizer.unk_token_id


def _lacks_space(prompt: str, answer: str, single: bool) -> bool:
    if answer[0].isspace() or prompt[-1:].isspace():
        return False
    # scripts without upper and lower case (Chinese, Japanese) write no spaces; years and brackets need none
    return not single or _letters_meet(prompt, answer)


def _letters_meet(prompt: str, answer: str) -> bool:
    return all(letter.islower() or letter.isupper() for letter in (prompt[-1:], answer[0]))


def _why_no_token(encoder: Encoder, prompt: str, before: Sequence[int], joined: Sequence[int], answer: str) -> str:
    unread = encoder.unread(answer)
    if unread is not None:
        return f"is not in the vocabulary of {encoder.model}: there is no token for {unread!r}. Choose another word."
    alone = encoder.plain([answer])[0]
    ids = joined[len(before) :] if list(joined[: len(before)]) == list(before) else alone
    if len(ids) != 1:
        return f"is {len(ids)} tokens ({encoder.show(ids)}) in {encoder.model}; answers must be one token each."
    end = encoder.decode([*before, *ids])[-40:]
    words = prompt.rstrip()
    moved = prompt[len(words) :] + answer
    hint = f" End the prompt before its space and give {moved!r}." if words and answer_token(encoder, words, moved) else ""
    return f"is no single token in {encoder.model} after this prompt: with {encoder.show(ids)} it ends in {end!r}.{hint}"


def _letters(text: str) -> str:
    """The letters and digits of a text, without case and accents."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", text).casefold() if letter.isalnum())


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
