"""The text and the prompts beside tasks on which edits are measured, and what a vocabulary does not have of them."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from subcircuit.edit import Texts
from subcircuit.errors import PromptError
from tests.tasks.conftest import tokenizer_of, with_tokenizer


def of_words(unknown: str | None) -> PreTrainedTokenizerFast:
    """Three words, and a token for all others or none."""
    vocabulary = {word: i for i, word in enumerate([unknown or "never", "one", "two"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown or "<missing>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unknown)


def test_a_vocabulary_of_bytes_has_every_word_of_the_package_s_texts() -> None:
    texts = Texts.of(with_tokenizer(tokenizer_of([])))
    assert texts is not None
    assert texts.unread is None and texts.windows and texts.unrelated


def test_words_that_become_the_unknown_token_are_named() -> None:
    texts = Texts.of(with_tokenizer(of_words("<unk>")))
    assert texts is not None and texts.unread == "The"
    # of one's own text every word is there, of the unrelated prompts none
    texts = Texts.of(with_tokenizer(of_words("<unk>")), "one two one two")
    assert texts is not None and texts.unread is not None and texts.unread not in ("one", "two")


def test_a_tokenizer_that_stops_at_the_package_s_texts_leaves_them_out() -> None:
    model = with_tokenizer(of_words(None))
    assert Texts.of(model) is None
    with pytest.raises(PromptError, match="the tokenizer of toy cannot read"):
        Texts.of(model, "one three")
