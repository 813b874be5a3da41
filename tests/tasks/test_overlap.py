import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import SettingsError
from subcircuit.tasks import (
    Answer,
    Task,
    build_task_of_ids,
    capital_of,
    induction,
    load_at_most,
    load_held_out,
    load_task,
    shared_prompts,
    without,
)
from tests.tasks.conftest import WELL_READ, tokenizer_of, with_tokenizer, words_of

MODEL = with_tokenizer(None)
PROMPTS = st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=3), min_size=1, max_size=8)


def task_of(prompts: list[list[int]]) -> Task:
    """Prompts that need not be distinct, with different numbers of answers."""
    answers = [Answer(index, pos, (index + 7,)) for index, prompt in enumerate(prompts) for pos in range(len(prompt))]
    return build_task_of_ids("ids", prompts, [[9, *prompt[1:]] for prompt in prompts], answers, MODEL, parameters={"a": 1})


@settings(deadline=None, max_examples=40)
@given(PROMPTS, PROMPTS)
def test_what_is_left_is_what_the_other_does_not_have(one: list[list[int]], other: list[list[int]]):
    a, b = task_of(one), task_of(other)
    common = [prompt for index, prompt in enumerate(one) if prompt in other and prompt not in one[:index]]
    assert shared_prompts(a, b) == shared_prompts(b, a) == len(common)
    kept = [index for index, prompt in enumerate(one) if prompt not in other]
    if not kept:
        with pytest.raises(SettingsError, match=f"all {len(one)} prompts of task ids"):
            without(a, b)
        return
    left = without(a, b)
    assert left.clean.to_lists() == [one[index] for index in kept]
    assert left.corrupted.to_lists() == [a.corrupted.to_lists()[index] for index in kept]
    assert shared_prompts(left, b) == 0
    rows = zip(left.answers.example.tolist(), left.answers.pos.tolist(), left.answers.correct[:, 0].tolist(), strict=True)
    assert list(rows) == [(new, pos, old + 7) for new, old in enumerate(kept) for pos in range(len(one[old]))]
    assert left.parameters == {"a": 1, "without": {"task": "ids", "parameters": {"a": 1}}}


def test_another_draw_of_a_small_task_shares_prompts_until_they_are_left_out():
    found_with, drawn = capital_of(WELL_READ, examples=32, seed=0), capital_of(WELL_READ, examples=96, seed=1)
    shared = shared_prompts(drawn, found_with)
    assert 0 < shared <= 32
    left = without(drawn, found_with)
    assert len(left) == 96 - shared >= 64
    assert not {pair.clean for pair in left.pairs} & {pair.clean for pair in found_with.pairs}
    assert shared_prompts(found_with, found_with) == 32


def test_a_task_with_fewer_prompts_than_nobody_asked_for_gives_all_that_it_has():
    words = words_of("_Paris _Rome _Oslo _Cairo _France _Italy _Norway _Egypt")
    model = with_tokenizer(tokenizer_of(words), context=200)
    found_with = load_task("capital_of", model, examples=8)
    left = load_held_out("capital_of", model, found_with, examples=64)
    assert (len(load_at_most("capital_of", model, examples=64)), len(left)) == (24, 16)
    assert shared_prompts(left, found_with) == 0
    assert load_at_most("capital_of", model, examples=5).digest == load_task("capital_of", model, examples=5).digest
    with pytest.raises(SettingsError, match=r"all 24 prompts .* none is left"):
        load_held_out("capital_of", model, load_task("capital_of", model, examples=24), examples=64)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.data())
def test_a_run_of_examples_is_those_examples(examples: int, data: st.DataObject):
    task = induction(MODEL, examples=examples, length=4)
    start = data.draw(st.integers(0, examples - 1))
    stop = data.draw(st.integers(start + 1, examples))
    part, each = task[start:stop], len(task.answers) // examples
    assert part.pairs == task.pairs[start:stop]
    assert torch.equal(part.clean.ids, task.clean.ids[start:stop])
    assert torch.equal(part.answers.correct, task.answers.correct[each * start : each * stop])
    assert part.answers.example.tolist() == [index for index in range(stop - start) for _ in range(each)]
