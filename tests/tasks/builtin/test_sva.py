from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import PromptError, SettingsError, UnknownNameError
from subcircuit.tasks import sva
from subcircuit.tasks.builtin.sva import STRUCTURES
from subcircuit.tasks.builtin.templates import templates_of
from tests.tasks.conftest import WELL_READ, tokenizer_of, with_tokenizer

WORDS = templates_of("sva").words
PEOPLE, THINGS, VERBS, PREPOSITIONS, PAST_VERBS = (
    WORDS[kind] for kind in ("people", "things", "verbs", "prepositions", "past_verbs")
)
SINGULAR, PLURAL = ({pair[number] for pair in (*PEOPLE, *THINGS, *VERBS)} for number in (0, 1))
SUBJECT = {"simple": 0, "across_pp": 0, "within_rc": 1, "across_rc": 0}  # which of the nouns in the prompt


def test_every_word_has_one_number():
    assert not SINGULAR & PLURAL
    assert len({word for pair in (*PEOPLE, *THINGS) for word in pair}) == 2 * (len(PEOPLE) + len(THINGS))
    assert not [verb for verb in PAST_VERBS if verb in SINGULAR | PLURAL]
    assert len(set(PREPOSITIONS)) == len(PREPOSITIONS)


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from(list(STRUCTURES)))
def test_the_verb_agrees_with_the_subject_which_alone_is_changed(seed: int, examples: int, structure: Any):
    task = sva(WELL_READ, examples=examples, seed=seed, structures=[structure])
    assert len({pair.clean for pair in task.pairs}) == len(task) == examples
    for index, pair in enumerate(task.pairs):
        clean, corrupted = cast(Any, pair.clean).split(), cast(Any, pair.corrupted).split()
        (right,), (wrong,) = ([text.strip() for text in texts] for texts in (pair.answers, pair.wrong_answers))
        own, other = (SINGULAR, PLURAL) if index % 2 == 0 else (PLURAL, SINGULAR)
        subject = [at for at, word in enumerate(clean) if word in SINGULAR | PLURAL][SUBJECT[structure]]
        assert clean[subject] in own and corrupted[subject] in other and right in own and wrong in other
        assert {tuple(sorted((clean[subject], corrupted[subject])))} <= {tuple(sorted(p)) for p in PEOPLE}
        assert {right, wrong} in [set(verb) for verb in VERBS]
        assert clean[:subject] + clean[subject + 1 :] == corrupted[:subject] + corrupted[subject + 1 :]
    assert ((task.clean.ids != task.corrupted.ids).sum(-1) == 1).all()


def test_all_structures_are_drawn_and_distractors_have_either_number():
    prompts = [cast(str, pair.clean).split() for pair in sva(WELL_READ, examples=96).pairs]
    assert {len(words) for words in prompts} >= {2, 5, 6, 7}
    for words in prompts:
        assert sum(word in SINGULAR | PLURAL for word in words) == (1 if len(words) == 2 else 2)
    mismatched = [
        words for words in prompts if len(words) > 2 and any(w in SINGULAR for w in words) and any(w in PLURAL for w in words)
    ]
    assert 20 < len(mismatched) < 76


def test_parameters_are_recorded():
    task = sva(WELL_READ, examples=3, seed=4, structures=["simple"])
    assert task.parameters == {"examples": 3, "seed": 4, "bos": "auto", "structures": ["simple"]}
    assert task.metric == "logit_difference"


def test_there_are_two_simple_prompts_for_every_noun():
    assert len(sva(WELL_READ, examples=60, structures=["simple"])) == 2 * len(PEOPLE) == 60
    with pytest.raises(SettingsError, match=r"60 different prompts were found .* 61 are needed"):
        sva(WELL_READ, examples=61, structures=["simple"])


def test_what_cannot_be_made_is_refused():
    with pytest.raises(UnknownNameError, match="unknown structure 'acros_rc'"):
        sva(WELL_READ, structures=["acros_rc"])
    with pytest.raises(SettingsError, match="at least one structure"):
        sva(WELL_READ, structures=[])
    nouns = [f" {word}" for pair in PEOPLE for word in pair]
    with pytest.raises(PromptError, match="0 of 18 nouns for things, in singular and plural, are one token in toy"):
        sva(with_tokenizer(tokenizer_of([*nouns, " tree", " car"])))
    with pytest.raises(PromptError, match="no tokenizer"):
        sva(with_tokenizer(None))
