import re
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import PromptError
from subcircuit.tasks import load_task
from subcircuit.tasks.builtin.templates import templates_of
from tests.tasks.conftest import tokenizer_of, with_tokenizer, words_in

NAMES, PLACES, OBJECTS = (words_in("ioi", kind) for kind in ("names", "places", "objects"))
TEMPLATES = list(templates_of("ioi").templates)
# half of the names are one token; places and objects are spelt out letter by letter
IOI_MODEL = with_tokenizer(tokenizer_of([f" {name}" for name in NAMES[::2]]), context=200)
SEEDS = st.integers(0, 10**6)


def names_in(text: str | None) -> list[str]:
    return [word for word in re.findall(r"[A-Z][a-z]+", text or "") if word in NAMES]


def hide_name(word: re.Match[str]) -> str:
    return "_" if word[0] in NAMES else word[0]


def test_ioi_offers_enough_of_everything():
    assert len(set(NAMES)) == len(NAMES) >= 80
    assert len(set(TEMPLATES)) == len(TEMPLATES) >= 8
    # "a {object}"
    assert not [thing for thing in OBJECTS if thing[0] in "aeiou"]
    assert not [word for word in (*PLACES, *OBJECTS) if word in NAMES]
    assert not [template for template in TEMPLATES if template.startswith("{")]


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 24))
def test_ioi_pairs_are_what_wang_et_al_describe(seed: int, examples: int):
    task = load_task("ioi", IOI_MODEL, examples=examples, seed=seed)
    assert len(task) == len(set(task.pairs)) == examples
    orders = []
    for pair, row in zip(task.pairs, task.answers.correct.tolist(), strict=True):
        clean, corrupted = names_in(pair.clean), names_in(pair.corrupted)
        (indirect,), (subject,) = ([text.strip() for text in texts] for texts in (pair.answers, pair.wrong_answers))
        assert sorted(clean) == sorted([indirect, subject, subject])
        assert clean[2] == subject
        assert len(set(corrupted)) == 3
        assert not set(corrupted) & set(clean)
        assert cast(Any, IOI_MODEL.tokenizer).decode(row) == pair.answers[0]
        # but for the names the two prompts are one
        assert re.sub("[A-Z][a-z]+", hide_name, pair.clean or "") == re.sub("[A-Z][a-z]+", hide_name, pair.corrupted or "")
        orders.append(clean[0] == indirect)
    assert orders == [index % 2 == 0 for index in range(examples)]


def test_ioi_says_how_many_names_are_left():
    few = with_tokenizer(tokenizer_of([f" {name}" for name in NAMES[:5]]), context=200)
    with pytest.raises(PromptError, match=r"5 of 103 first names are one token in toy, and IOI needs 6"):
        load_task("ioi", few)
    enough = with_tokenizer(tokenizer_of([f" {name}" for name in NAMES[:6]]), context=200)
    assert len(load_task("ioi", enough, examples=50)) == 50


def test_ioi_needs_a_tokenizer():
    with pytest.raises(PromptError, match="no tokenizer"):
        load_task("ioi", with_tokenizer(None))
