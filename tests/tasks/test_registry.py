import random
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.engine.readout import readout_of
from subcircuit.errors import SettingsError, UnknownNameError
from subcircuit.model import Transformer
from subcircuit.tasks import METRICS, competence, induction, load_task, tasks
from subcircuit.tasks.tokenizer import bos_prefix
from tests.tasks.conftest import WELL_READ
from tests.tiny_models import tiny

SEEDS = st.integers(0, 10**6)


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(SEEDS, SEEDS)
def test_the_seed_and_nothing_else_decides(seed: int, global_seed: int):
    random.seed(global_seed)  # which must not matter
    for name in ("ioi", "induction"):
        task = load_task(name, WELL_READ, examples=6, seed=seed)
        assert task.digest == load_task(name, WELL_READ, examples=6, seed=seed).digest
        assert task.digest != load_task(name, WELL_READ, examples=6, seed=seed + 1).digest
        assert task[:3].digest == load_task(name, WELL_READ, examples=3, seed=seed).digest


def test_every_metric_suits_every_built_in_task():
    model = tiny("llama_gqa")
    for task in (induction(model, length=5), load_task("ioi", WELL_READ)):
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
        load_task("inductoin", WELL_READ)
    for examples in (0, -1):
        with pytest.raises(SettingsError, match="at least 1"):
            load_task("ioi", WELL_READ, examples=examples)


def test_real_tokenizers_have_enough_names_and_real_models_do_the_tasks(real_model: Transformer):
    tokenizer = cast(Any, real_model.tokenizer)
    prefix = bos_prefix(tokenizer, "auto", real_model.name)
    assert list(prefix) == [tokenizer.bos_token_id] * ("gemma" in real_model.name)
    for listed in tasks():
        task = load_task(listed.name, real_model, examples=4)
        assert (task.clean.ids[:, : len(prefix)] == torch.tensor(prefix, dtype=torch.long)).all()
        (accuracy,) = (one.means for one in competence(real_model, task) if one.metric.name == "accuracy")
        assert accuracy[0] > 0.7 > accuracy[1], listed.name
    made = load_task("ioi", real_model, examples=100, seed=1)
    assert len(made) == 100
    for pair, right, wrong in zip(made.pairs, made.answers.correct.tolist(), made.answers.wrong.tolist(), strict=True):
        assert tokenizer.decode(right).strip() == pair.answers[0].strip()
        assert tokenizer.decode(wrong).strip() == pair.wrong_answers[0].strip()
