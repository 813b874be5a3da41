"""Which token an answer is: the one with which the prompt decodes to what was written, or none."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from subcircuit.errors import PromptError
from subcircuit.tasks import PromptPair, build_task, load_task
from tests.tasks.conftest import tokenizer_of, with_tokenizer, words_of

WORDS = words_of("_saw _( _and _to saw ( Ada Bela Cleo _Ada _Bela _Cleo (A da")
CLEAN, CORRUPTED = "Ada and Bela", "Ada and Cleo"


def with_marks() -> PreTrainedTokenizerBase:
    """As SentencePiece: ▁ for spaces, one before every text."""
    pieces = ["<unk>", "▁", "▁Ada", "▁Bela", "▁Cleo", "▁and", "▁saw", "▁to", "(", "▁(", "Ada", "Bela", "Cleo", "(A", "da"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def of_words(unknown: str | None = "<unk>") -> PreTrainedTokenizerBase:
    """Whole words, and a token for unknown ones or none."""
    vocabulary = {word: i for i, word in enumerate(f"{unknown} Ada Bela Cleo and saw to ( .".split())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown or "<missing>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unknown)


TOKENIZERS = {
    "bytes": lambda: tokenizer_of(WORDS),
    "bytes with a space": lambda: tokenizer_of(WORDS, adds_space=True),
    # a bracket is one token with the letter after it
    "bytes with brackets": lambda: tokenizer_of(WORDS, adds_space=True, splits=False),
    "marks": with_marks,
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(("end", "answer"), [(" saw ", "Ada"), (" saw (", "Ada"), (" saw", " Ada"), (" to ", "Ada")])
def test_prompt_and_answer_decode_to_what_was_written(kind: str, end: str, answer: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    task = build_task(
        "t", [PromptPair(CLEAN + end, CORRUPTED + end, (answer,))], with_tokenizer(tokenizer), parameters={}, bos="never"
    )
    token = int(task.answers.correct[0, 0])
    assert str(tokenizer.decode([*task.clean.to_lists()[0], token])).lstrip() == CLEAN + end + answer
    # no token but this one says so, and it is no token for unknown words
    assert str(tokenizer.convert_ids_to_tokens(token)).strip("Ġ▁") == "Ada"
    assert token != tokenizer.unk_token_id


def test_an_answer_that_only_a_space_makes_one_token_is_refused_with_the_way_out() -> None:
    tokenizer = tokenizer_of(words_of("_saw _and _Ada _Bela _Cleo"), adds_space=True)
    vocabulary = tokenizer.get_vocab()
    assert "ĠAda" in vocabulary and "Ada" not in vocabulary
    pair = PromptPair(CLEAN + " saw ", CORRUPTED + " saw ", ("Ada",))
    with pytest.raises(PromptError, match=r"pair 1: answer 'Ada' .* ends in .*saw  Ada'\. End the prompt .* give ' Ada'"):
        build_task("t", [pair], with_tokenizer(tokenizer), parameters={})
    # a bracket is no word that the answer would continue
    pair = PromptPair(CLEAN + "(", CORRUPTED + "(", ("Ada",))
    with pytest.raises(
        PromptError, match=r"answer 'Ada' is no single token after '\('; did you mean ' Ada' with a leading space"
    ):
        build_task("t", [pair], with_tokenizer(tokenizer), parameters={})
    pair = PromptPair(CLEAN + " saw", CORRUPTED + " saw", (" Ada",))
    task = build_task("t", [pair], with_tokenizer(tokenizer), parameters={})
    assert task.answers.correct.tolist() == [[vocabulary["ĠAda"]]]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (PromptPair("Ada saw", "Bela saw", (" Zeno",)), "pair 1: answer ' Zeno' is not in the vocabulary of toy.*'Zeno'"),
        (PromptPair("Ada saw", "Bela saw", (" Ada",), (" Zeno",)), "pair 1: answer ' Zeno' is not in the vocabulary"),
        (PromptPair("Ada saw Zeno", "Bela saw Cleo", (" Ada",)), "pair 1: 'Zeno' in the clean prompt is not in the vocabulary"),
        (PromptPair("Ada saw Cleo", "Bela saw Zeno", (" Ada",)), "pair 1: 'Zeno' in the corrupted prompt is not in"),
        (PromptPair("Ada saw !", "Bela saw !", (" Ada",)), "pair 1: '!' in the clean prompt"),
        (PromptPair("Ada saw", "Bela saw", ("Ada",)), "pair 1: answer 'Ada' .* did you mean ' Ada' with a leading space"),
        (PromptPair("Ada saw", "Bela saw", (" Ada Bela",)), "pair 1: answer ' Ada Bela' is 2 tokens"),
    ],
)
def test_words_that_a_vocabulary_does_not_have_are_refused_with_the_pair(pair: PromptPair, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        build_task("t", [pair], with_tokenizer(of_words()), parameters={})


def test_words_that_a_tokenizer_leaves_out_are_refused_with_the_pair() -> None:
    silent = Tokenizer(models.BPE({letter: i for i, letter in enumerate("Adabewls ")}, []))
    silent.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    model = with_tokenizer(PreTrainedTokenizerFast(tokenizer_object=silent))
    with pytest.raises(PromptError, match="pair 1: 'Zed' in the clean prompt is not in the vocabulary of toy"):
        build_task("t", [PromptPair("Ada Zed", "Abe Zed", (" w",))], model, parameters={})
    model = with_tokenizer(of_words(None))
    with pytest.raises(PromptError, match="pair 1: 'Zeno' in the clean prompt is not in the vocabulary of toy"):
        build_task("t", [PromptPair("Zeno saw", "Ada saw", (" Bela",))], model, parameters={})
    with pytest.raises(PromptError, match="pair 1: the tokenizer of toy cannot read 'Bela saw Zeno'"):
        build_task("t", [PromptPair("Bela saw", "Ada saw", (" Zeno",))], model, parameters={})
    assert build_task("t", [PromptPair("Bela saw", "Ada saw", (" Cleo",))], model, parameters={}).answers.correct.tolist() == [
        [3]
    ]


def test_a_token_for_unknown_words_that_is_spelt_out_is_read() -> None:
    task = build_task("t", [PromptPair("<unk> saw", "Bela saw", (" Ada",))], with_tokenizer(of_words()), parameters={})
    assert task.clean.to_lists() == [[0, 5]]


def test_a_prompt_file_names_the_line(tmp_path: Path) -> None:
    lines = [{"clean": f"{name} saw", "corrupt": "Cleo saw", "answers": [" Ada"]} for name in ("Ada", "Zeno")]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(PromptError, match=r"pair 2 \(mine\.jsonl:2\): 'Zeno' in the clean prompt"):
        load_task(file, with_tokenizer(of_words()))
