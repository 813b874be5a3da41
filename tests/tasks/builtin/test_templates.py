"""Docstrings, gendered pronouns, capitals: what each task's source describes, and what all of them promise."""

import re
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import PromptError, PromptMismatchError, SettingsError
from subcircuit.model import Transformer
from subcircuit.tasks import Task, load_task, tasks
from subcircuit.tasks.builtin.capital_of import CAPITALS, TEMPLATES
from tests.tasks.conftest import WELL_READ, tokenizer_of, with_tokenizer, words_in

SEEDS = st.integers(0, 10**6)
OF_TEMPLATES = ["sva", "greater_than", "docstring", "gendered_pronoun", "capital_of"]
ARGUMENTS, WORDS = (words_in("docstring", kind) for kind in ("arguments", "words"))
WOMEN, MEN = (words_in("gendered_pronoun", kind) for kind in ("women", "men"))


def differing(task: Task) -> list[list[tuple[str, str]]]:
    """The tokens in which each clean prompt differs from its counterpart."""
    tokenizer = WELL_READ.tokenizer
    assert tokenizer is not None
    return [
        [(str(tokenizer.decode([a])), str(tokenizer.decode([b]))) for a, b in zip(*rows, strict=True) if a != b]
        for rows in zip(task.clean.ids.tolist(), task.corrupted.ids.tolist(), strict=True)
    ]


@settings(deadline=None, max_examples=10)
@given(SEEDS, st.integers(1, 16))
def test_docstrings_ask_for_the_next_argument(seed: int, examples: int):
    task = load_task("docstring", WELL_READ, examples=examples, seed=seed)
    for pair, different in zip(task.pairs, differing(task), strict=True):
        clean, corrupted = (re.findall(r"self, (.*)\):|:param (\w+):", cast(str, text)) for text in (pair.clean, pair.corrupted))
        (a, b, c, d), (x, y) = clean[0][0].split(", "), (found[1] for found in clean[1:])
        assert (x, y) == (a, b) and pair.answers == (f" {c}",)
        others = [*corrupted[0][0].split(", "), *(found[1] for found in corrupted[1:])]
        assert len({a, b, c, d, *others}) == 10
        assert sorted(pair.wrong_answers) == sorted(f" {name}" for name in {a, b, d, *others})
        assert different == [(f" {one}", f" {other}") for one, other in zip([a, b, c, d, a, b], others, strict=True)]
        # what documents the arguments names none of them
        assert not set(re.findall(r"\w+", cast(str, pair.clean).partition('"""')[2])) & {c, d}


@settings(deadline=None, max_examples=10)
@given(SEEDS, st.integers(1, 30))
def test_pronouns_follow_the_name(seed: int, examples: int):
    task = load_task("gendered_pronoun", WELL_READ, examples=examples, seed=seed)
    for index, (pair, different) in enumerate(zip(task.pairs, differing(task), strict=True)):
        names, right, wrong = (WOMEN, " she", " he") if index % 2 == 0 else (MEN, " he", " she")
        assert (pair.answers, pair.wrong_answers) == ((right,), (wrong,))
        (so, that), (name, person) = different
        assert (so, that, person) == ("So", "That", " person")
        assert name.strip() in names


@settings(deadline=None, max_examples=10)
@given(SEEDS, st.integers(1, 30))
def test_capitals_are_those_of_the_countries(seed: int, examples: int):
    task = load_task("capital_of", WELL_READ, examples=examples, seed=seed)
    for pair, different in zip(task.pairs, differing(task), strict=True):
        ((country, other),) = set(different)
        assert pair.answers == (f" {CAPITALS[country.strip()]}",)
        assert pair.wrong_answers == (f" {CAPITALS[other.strip()]}",)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TEMPLATES)
@settings(deadline=None, max_examples=4)
@given(SEEDS, SEEDS)
def test_the_seed_decides_and_prompts_are_distinct(name: str, seed: int, other: int):
    task = load_task(name, WELL_READ, examples=32, seed=seed)
    assert len({pair.clean for pair in task.pairs}) == 32
    assert torch.equal(task.clean.lengths, task.corrupted.lengths)
    assert torch.equal(task.answers.pos, task.clean.lengths - 1)
    assert not any(set(pair.answers) & set(pair.wrong_answers) for pair in task.pairs)
    assert task[:7].digest == load_task(name, WELL_READ, examples=7, seed=seed).digest
    assert (load_task(name, WELL_READ, examples=32, seed=other).digest == task.digest) == (seed == other)


def test_words_are_different():
    for words in (ARGUMENTS, WORDS, (*WOMEN, *MEN), tuple(CAPITALS.values()), TEMPLATES):
        assert len(set(words)) == len(words)
    assert not set(ARGUMENTS) & set(WORDS)


def test_as_many_prompts_as_there_are_and_no_more():
    few = with_tokenizer(
        tokenizer_of([f" {word}" for word in ("Paris", "Rome", "Oslo", "Cairo", "France", "Italy", "Norway", "Egypt")]), 200
    )
    assert len(load_task("capital_of", few, examples=24)) == 4 * len(TEMPLATES)
    with pytest.raises(SettingsError, match=r"24 different prompts were found for capital-of .* use at most 24"):
        load_task("capital_of", few, examples=25)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("docstring", "0 of [0-9]+ argument names are one token in toy, and docstring needs 10"),
        ("gendered_pronoun", "0 of [0-9]+ women's names"),
        ("capital_of", "0 of [0-9]+ capitals"),
        ("sva", "0 of 30 nouns for people"),
    ],
)
def test_a_tokenizer_without_the_words_is_refused(name: str, message: str):
    with pytest.raises(PromptError, match=message):
        load_task(name, with_tokenizer(tokenizer_of([]), context=400))
    with pytest.raises(PromptError, match="no tokenizer"):
        load_task(name, with_tokenizer(None))


def test_beginnings_that_do_not_line_up_are_refused():
    names = [f" {name}" for name in (*WOMEN, *MEN, "he", "she")]
    with pytest.raises(PromptMismatchError, match="pair 1: clean has"):
        load_task("gendered_pronoun", with_tokenizer(tokenizer_of(names), context=200))


def test_real_tokenizers_have_words_for_discovery_and_evaluation(real_model: Transformer):
    tokenizer = real_model.tokenizer
    assert tokenizer is not None
    for listed in tasks():
        task = load_task(listed.name, real_model, examples=96, seed=1)
        assert len({tuple(row) for row in task.clean.ids.tolist()}) == len(task) == 96
        for index, pair in enumerate(task.pairs):
            if pair.clean is not None:
                right = task.answers.correct[index][task.answers.correct_mask[index]].tolist()
                assert [tokenizer.decode([token]) for token in right] == list(pair.answers)
