from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import SettingsError
from subcircuit.tasks import induction
from tests.tasks.conftest import tokenizer_of, with_tokenizer

SEEDS = st.integers(0, 10**6)


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
