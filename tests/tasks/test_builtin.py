import random
import re
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.engine.readout import readout_of
from subcircuit.errors import PromptError, SettingsError, UnknownNameError
from subcircuit.model import Transformer
from subcircuit.tasks import METRICS, competence, induction, ioi, load_task, tasks
from subcircuit.tasks.encoding import bos_prefix
from subcircuit.tasks.ioi import NAMES, OBJECTS, PLACES, TEMPLATES
from tests.tasks.conftest import WELL_READ, tokenizer_of, with_tokenizer
from tests.tiny_models import tiny

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
    task = ioi(IOI_MODEL, examples=examples, seed=seed)
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


@settings(deadline=None, max_examples=20)
@given(SEEDS, SEEDS)
def test_the_seed_and_nothing_else_decides(seed: int, global_seed: int):
    random.seed(global_seed)  # which must not matter
    for make in (ioi, induction):
        task = make(IOI_MODEL, examples=6, seed=seed)
        assert task.digest == make(IOI_MODEL, examples=6, seed=seed).digest
        assert task.digest != make(IOI_MODEL, examples=6, seed=seed + 1).digest
        assert task[:3].digest == make(IOI_MODEL, examples=3, seed=seed).digest


def test_ioi_says_how_many_names_are_left():
    few = with_tokenizer(tokenizer_of([f" {name}" for name in NAMES[:5]]), context=200)
    with pytest.raises(PromptError, match=r"5 of 103 first names are one token in toy, and IOI needs 6"):
        ioi(few)
    enough = with_tokenizer(tokenizer_of([f" {name}" for name in NAMES[:6]]), context=200)
    assert len(ioi(enough, examples=50)) == 50


def test_ioi_needs_a_tokenizer():
    with pytest.raises(PromptError, match="no tokenizer"):
        ioi(with_tokenizer(None))


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(2, 12), st.integers(1, 5), st.sampled_from(["auto", "always", "never"]), st.booleans())
def test_induction_repeats_and_its_counterpart_does_not(seed: int, length: int, examples: int, bos: Any, adds: bool):
    model = with_tokenizer(tokenizer_of([], adds_bos=adds))
    task = induction(model, examples=examples, seed=seed, bos=bos, length=length)
    n_bos = int(bos == "always" or (bos == "auto" and adds))
    for clean, corrupted in zip(task.clean.ids.tolist(), task.corrupted.ids.tolist(), strict=True):
        assert clean[:n_bos] == corrupted[:n_bos] == [0] * n_bos
        first, second = clean[n_bos:][:length], clean[n_bos:][length:]
        other = corrupted[n_bos:][:length]
        assert second == corrupted[n_bos:][length:] == first[:-1]
        assert len({*first, *other}) == 2 * length
        assert not {0, 1, 2} & {*first, *other}
    answers = task.answers
    assert len(answers) == examples * (length - 1)
    for example, pos, right, wrong in zip(answers.example, answers.pos, answers.correct[:, 0], answers.wrong[:, 0], strict=True):
        # the answer follows the earlier occurrence of the token that is read
        earlier = int(pos) - length
        assert task.clean.ids[example, earlier] == task.clean.ids[example, pos]
        assert task.clean.ids[example, earlier + 1] == right
        assert task.corrupted.ids[example, earlier + 1] == wrong


def test_induction_does_without_a_tokenizer_but_not_with_a_bos_that_is_not_there():
    task = induction(with_tokenizer(None))
    assert task.parameters == {"examples": 8, "seed": 0, "bos": "auto", "length": 10}
    assert task.clean.ids.shape == (8, 19)
    with pytest.raises(SettingsError, match="no beginning-of-sequence"):
        induction(with_tokenizer(None), bos="always")


@pytest.mark.parametrize("options", [{"length": 1}, {"examples": 0}, {"length": 31}, {"length": 40}])
def test_induction_refuses_what_does_not_fit(options: dict[str, Any]):
    with pytest.raises(SettingsError):
        induction(with_tokenizer(None, context=60), **options)


def test_every_metric_suits_every_built_in_task():
    model = tiny("llama_gqa")
    for task in (induction(model, length=5), ioi(IOI_MODEL)):
        logits = torch.randn(len(task.answers), 500)
        for metric in METRICS.values():
            bound = metric.bind(task.answers, logits)
            assert task.answers.mean(bound(readout_of(logits, bound.needs))).isfinite()


def test_tasks_are_found_by_name():
    for listed in tasks():
        task = load_task(listed.name, WELL_READ, examples=3, seed=5, bos="never")
        assert (task.name, len(task)) == (listed.name, 3)
        assert task.parameters.items() >= {"examples": 3, "seed": 5, "bos": "never"}.items()
        assert len(load_task(listed.name, WELL_READ)) == 8
        assert "\n" not in listed.description


def test_a_mistyped_task_gets_a_suggestion():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'induction'.*a path that ends in \.jsonl"):
        load_task("inductoin", IOI_MODEL)
    for examples in (0, -1):
        with pytest.raises(SettingsError, match="at least 1"):
            load_task("ioi", IOI_MODEL, examples=examples)


def test_real_tokenizers_have_enough_names_and_real_models_do_the_tasks(real_model: Transformer):
    tokenizer = cast(Any, real_model.tokenizer)
    prefix = bos_prefix(tokenizer, "auto", real_model.name)
    assert list(prefix) == [tokenizer.bos_token_id] * ("gemma" in real_model.name)
    for listed in tasks():
        task = load_task(listed.name, real_model, examples=4)
        assert (task.clean.ids[:, : len(prefix)] == torch.tensor(prefix, dtype=torch.long)).all()
        (accuracy,) = (one.means for one in competence(real_model, task) if one.metric.name == "accuracy")
        assert accuracy[0] > 0.7 > accuracy[1], listed.name
    made = ioi(real_model, examples=100, seed=1)
    assert len(made) == 100
    for pair, right, wrong in zip(made.pairs, made.answers.correct.tolist(), made.answers.wrong.tolist(), strict=True):
        assert tokenizer.decode(right).strip() == pair.answers[0].strip()
        assert tokenizer.decode(wrong).strip() == pair.wrong_answers[0].strip()
