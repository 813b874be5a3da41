from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import PromptError
from subcircuit.model import Transformer
from subcircuit.tasks import Task
from subcircuit.tasks.builtin.greater_than import CENTURIES, NOUNS, greater_than
from tests.tasks.conftest import WELL_READ, tokenizer_of, with_tokenizer

TWO_DIGITS = [f"{number:02}" for number in range(100)]
# like GPT-2's: centuries and pairs of digits are tokens, some years are one token, and some are split elsewhere
WHOLE, ODD = " 1776", " 132"
TWO_DIGIT_MODEL = with_tokenizer(
    tokenizer_of([*(f" {century}" for century in CENTURIES), WHOLE, " 1700", ODD, *TWO_DIGITS]), context=200
)
ONE_DIGIT_MODEL = WELL_READ  # digits are spelt out, as by SmolLM2 and Gemma
SEEDS = st.integers(0, 10**6)


def years(task: Task, index: int) -> tuple[str, int, int, list[int], list[int]]:
    """The century, the clean and the corrupted year, and the numbers that are right and wrong."""
    pair = task.pairs[index]
    clean, corrupted = (cast(str, text).split() for text in (pair.clean, pair.corrupted))
    start = clean.index("from") + 3
    assert clean[:start] + clean[start + 1 :] == corrupted[:start] + corrupted[start + 1 :]
    assert clean[-1] == clean[start][:2] == corrupted[start][:2]
    right, wrong = ([int(text) for text in texts] for texts in (pair.answers, pair.wrong_answers))
    return clean[-1], int(clean[start][2:]), int(corrupted[start][2:]), right, wrong


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(SEEDS, st.integers(1, 12))
def test_two_digits_are_right_if_the_year_is_later(seed: int, examples: int):
    task = greater_than(TWO_DIGIT_MODEL, examples=examples, seed=seed)
    for index in range(examples):
        century, year, corrupted, right, wrong = years(task, index)
        assert century in CENTURIES and corrupted == 1 and 2 <= year <= 98
        for number in range(100):
            assert (number in right, number in wrong) == (number > year, number <= year)
        assert f" {century}{year}" != WHOLE and not f" {century}{year:02}".startswith(ODD)
    assert ((task.clean.ids != task.corrupted.ids).sum(-1) == 1).all()
    assert task.parameters["digits"] == 2 and task.metric == "greater_than"


@settings(deadline=None, max_examples=10)
@given(SEEDS, st.integers(1, 12))
def test_a_digit_is_right_if_every_year_that_it_begins_is_later(seed: int, examples: int):
    task = greater_than(ONE_DIGIT_MODEL, examples=examples, seed=seed)
    for index in range(examples):
        _, year, corrupted, right, wrong = years(task, index)
        assert corrupted == 1
        for digit in range(10):
            later = [10 * digit + last > year for last in range(10)]
            earlier = [10 * digit + last < 10 * (year // 10) for last in range(10)]
            assert (digit in right) == (all(later) and digit != year // 10)
            assert (digit in wrong) == all(earlier)
        assert right and wrong
    different = (task.clean.ids != task.corrupted.ids).sum(-1)
    assert ((different == 1) | (different == 2)).all()
    assert task.parameters["digits"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("model", "digits"), [(TWO_DIGIT_MODEL, 2), (ONE_DIGIT_MODEL, 1)])
def test_answers_are_the_tokens_that_continue_the_year(model: Transformer, digits: int):
    task = greater_than(model, examples=96, seed=3)
    tokenizer = model.tokenizer
    assert tokenizer is not None
    assert len({pair.clean for pair in task.pairs}) == 96
    for pair, right, mask in zip(task.pairs, task.answers.correct, task.answers.correct_mask, strict=True):
        assert [tokenizer.decode([token]) for token in right[mask].tolist()] == list(pair.answers)
        assert {len(text) for text in pair.answers} == {digits}


def test_nouns_are_different():
    assert len(set(NOUNS)) == len(NOUNS) >= 60


def test_a_tokenizer_that_splits_years_otherwise_is_refused():
    three = with_tokenizer(tokenizer_of([f" {number}" for number in range(110, 180)]), context=200)
    with pytest.raises(PromptError, match=r"17\|32 or into digits; toy splits them differently .*' 173' '2'"):
        greater_than(three)
