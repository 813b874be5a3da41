"""Tokenizers and models for tests of tasks: small ones made here, real ones from the built-in models."""

from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from subcircuit.errors import SubcircuitError
from subcircuit.model import Transformer, load_model
from subcircuit.tasks.builtin.capital_of import CAPITALS
from subcircuit.tasks.builtin.templates import templates_of
from tests.tiny_models import attention_only

SPECIAL = ("<bos>", "<eos>", "<unk>")


def words_of(text: str) -> list[str]:
    """A vocabulary in the order given: ``_`` stands for the leading space."""
    return [word.replace("_", " ") for word in text.split()]


def tokenizer_of(
    words: list[str], adds_bos: bool = False, adds_eos: bool = False, adds_space: bool = False, splits: bool = True
) -> PreTrainedTokenizerBase:
    """A byte-level tokenizer like GPT-2's that knows these words whole and spells out all others letter by letter."""
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = [as_bytes.pre_tokenize_str(word)[0][0] for word in words]
    letters = sorted(set(pre_tokenizers.ByteLevel.alphabet()))
    vocab = {word: index for index, word in enumerate(dict.fromkeys([*SPECIAL, *letters, *words]))}
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        for end in range(1, len(word)):
            vocab.setdefault(word[: end + 1], len(vocab))
            merges[word[:end], word[end]] = None
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=adds_space, use_regex=splits)
    tokenizer.decoder = decoders.ByteLevel()
    if adds_bos or adds_eos:
        template = f"{'<bos> ' * adds_bos}$A{' <eos>' * adds_eos}"
        tokenizer.post_processor = processors.TemplateProcessing(template, special_tokens=[("<bos>", 0), ("<eos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")


def with_tokenizer(tokenizer: PreTrainedTokenizerBase | None, context: int = 64) -> Transformer:
    """A tiny model that claims this tokenizer's vocabulary; for tasks, which never run it."""
    model = attention_only()
    vocab = model.config.vocab if tokenizer is None else len(tokenizer)
    return replace(model, config=replace(model.config, vocab=vocab, context=context), tokenizer=tokenizer, name="toy")


def words_in(task: str, *lists: str) -> list[str]:
    """The words of a data file's lists, every form of them."""
    words = templates_of(task).words
    return [form for name in lists for word in words[name] for form in ([word] if isinstance(word, str) else word)]


# every word of which a built-in task needs a token; digits and most other words are spelt out
_NAMES = ("person", "he", "she", *words_in("ioi", "names"), *words_in("gendered_pronoun", "women", "men"))
_OTHERS = (*words_in("sva", "people", "things", "verbs"), *words_in("docstring", "arguments"))
VOCABULARY = [
    *(f" {word}" for word in (*_NAMES, *_OTHERS, *CAPITALS, *CAPITALS.values())),
    "That",
    "So",
]
WELL_READ = with_tokenizer(tokenizer_of(VOCABULARY), context=400)


@pytest.fixture(scope="session", params=["smollm2-135m", "gemma3-270m"])
def real_model(request: pytest.FixtureRequest) -> Transformer:
    """Built-in models: a byte-level tokenizer without BOS, and a SentencePiece-like one that adds it."""
    try:
        return load_model(request.param)
    except SubcircuitError as why:
        pytest.skip(f"{request.param} is not installed: {why}")
