import json
from collections.abc import Iterator, Sequence
from itertools import chain, combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import SettingsError
from subcircuit.tasks import (
    Answer,
    Split,
    Task,
    build_task_of_ids,
    induction,
    load_at_most,
    load_held_out,
    load_split,
    load_task,
    parse_shares,
    shared_prompts,
    sva,
    tasks,
    without,
)
from subcircuit.tasks.shares import FEWEST, apportion
from tests.tasks.conftest import WELL_READ, tokenizer_of, with_tokenizer, words_of

MODEL = with_tokenizer(None)
TOKENS = st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=3), min_size=1, max_size=8)
LETTERS = with_tokenizer(tokenizer_of([]))
SHARES = st.tuples(*[st.integers(0, 100)] * 3).filter(lambda shares: shares[0] > 0 and sum(shares[1:]) > 0)


def pairs_of(prompts: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Clean and corrupted prompts of as many letters."""
    for index, number in enumerate(prompts):
        yield str(number), f"{str(number)[:2]}{chr(ord('a') + prompts[:index].count(number))}"


def file_of(folder: str | Path, prompts: Sequence[int]) -> Path:
    """A pair for each number; numbers that come twice are the same clean prompt with another counterpart."""
    lines = [{"clean": clean, "corrupt": corrupted, "answers": ["!"]} for clean, corrupted in pairs_of(prompts)]
    file = Path(folder) / "numbers.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def texts(split: Split) -> dict[str, list[str]]:
    return {name: [f"{pair.clean}" for pair in part.pairs] for name, part in split.parts.items()}


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(100, 130), min_size=1, max_size=30).filter(lambda n: max(n.count(i) for i in n) <= 20), SHARES, st.data()
)
def test_the_parts_of_a_file_share_no_prompt_and_leave_none_out(
    numbers: list[int], shares: tuple[int, int, int], data: st.DataObject
):
    total = sum(shares)
    percent = [100 * share / total for share in shares]
    different, needed = len(set(numbers)), sum(least for least, share in zip(FEWEST, shares, strict=True) if share)
    with TemporaryDirectory() as folder:
        file, seed = file_of(folder, numbers), data.draw(st.integers(0, 3))
        if different < needed:
            with pytest.raises(SettingsError, match=f"{different} different prompts?, and a split needs at least {needed}:"):
                load_split(file, LETTERS, seed=seed, split=percent)
            return
        split, again = (load_split(file, LETTERS, seed=seed, split=percent) for _ in range(2))
    whole = list(pairs_of(numbers))
    where = {
        name: [whole.index((f"{pair.clean}", f"{pair.corrupted}")) for pair in part.pairs] for name, part in split.parts.items()
    }
    # together they are the file, pair by pair, and every part keeps its order
    assert sorted(chain(*where.values())) == list(range(len(numbers)))
    assert all(part == sorted(part) for part in where.values())
    # pairs with one clean prompt stay together
    parts = {name: {numbers[index] for index in part} for name, part in where.items()}
    assert not any(a & b for a, b in combinations(parts.values(), 2))
    sizes = [len(parts.get(name, ())) for name in ("search", "validation", "test")]
    assert tuple(sizes) == apportion(
        different, percent, [least if share else 0 for least, share in zip(FEWEST, shares, strict=True)]
    )
    assert {name: part.digest for name, part in again.parts.items()} == {name: part.digest for name, part in split.parts.items()}


@settings(deadline=None, max_examples=200)
@given(st.integers(6, 2000), SHARES)
def test_sizes_are_the_shares_to_within_a_prompt_or_the_fewest(count: int, shares: tuple[int, int, int]):
    fewest = [least if share else 0 for least, share in zip(FEWEST, shares, strict=True)]
    sizes = apportion(count, shares, fewest)
    exact = [count * share / sum(shares) for share in shares]
    assert sum(sizes) == count
    assert all(size >= least for size, least in zip(sizes, fewest, strict=True))
    if all(part >= least for part, least in zip(exact, fewest, strict=True)):
        assert all(abs(size - part) < 1 for size, part in zip(sizes, exact, strict=True))
    assert all(size == 0 for size, share in zip(sizes, shares, strict=True) if not share)


def test_a_file_is_split_50_20_30_and_the_seed_says_how(tmp_path: Path):
    file = file_of(tmp_path, range(100, 140))
    split = load_split(file, LETTERS)
    assert {name: len(part) for name, part in split.parts.items()} == {"search": 20, "validation": 8, "test": 12}
    assert texts(load_split(file, LETTERS, split="50/20/30")) == texts(split)
    assert texts(load_split(file, LETTERS, seed=1)) != texts(split)
    assert {name: len(part) for name, part in load_split(file_of(tmp_path, range(100, 112)), LETTERS).parts.items()} == {
        "search": 6,
        "validation": 2,
        "test": 4,
    }


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(st.integers(1, 12), st.integers(0, 3))
def test_examples_of_a_file_are_the_first_pairs_and_the_rest_is_divided(examples: int, seed: int):
    with TemporaryDirectory() as folder:
        file = file_of(folder, [*range(100, 112), 100, 101, 112, 113, 114])
        split = load_split(file, LETTERS, examples=examples, seed=seed)
        assert split.search.digest == load_task(file, LETTERS, examples=examples).digest
    parts = {name: set(part) for name, part in texts(split).items()}
    left = {str(n) for n in range(100, 115)} - parts["search"]
    assert parts["validation"] | parts["test"] == left
    assert (len(parts["validation"]), len(parts["test"])) == apportion(len(left), (0, 20, 30), (0, 1, 2))[1:]


@pytest.mark.slow
def test_what_a_large_file_has_left_is_not_all_measured(tmp_path: Path):
    split = load_split(file_of(tmp_path, range(100, 900)), LETTERS, examples=8)
    assert {name: len(part) for name, part in split.parts.items()} == {"search": 8, "validation": 64, "test": 256}
    assert len(load_split(file_of(tmp_path, range(100, 900)), LETTERS).parts["test"]) == 240


@pytest.mark.slow
@pytest.mark.parametrize("name", [task.name for task in tasks()])
def test_a_built_in_task_is_searched_on_the_prompts_that_it_always_was(name: str):
    for examples, seed in ((None, 0), (5, 3)):
        split = load_split(name, WELL_READ, examples=examples, seed=seed)
        search = load_task(name, WELL_READ, examples=examples, seed=seed)
        assert (split.search.digest, split.search.parameters) == (search.digest, search.parameters)
        assert split.test is not None and split.validation is not None
        assert (len(split.validation), len(split.test)) == (16, 64)
        # as they are held out
        assert split.test.digest == load_held_out(name, WELL_READ, search, examples=64, seed=seed + 1).digest
        both = load_held_out(name, WELL_READ, search, examples=80, seed=seed + 1)
        assert split.validation.clean.to_lists() == both.clean.to_lists()[64:]
        assert not any(shared_prompts(a, b) for a, b in ((search, both), (split.test, split.validation)))


def test_a_task_with_few_prompts_gives_what_it_has():
    few = with_tokenizer(
        tokenizer_of([" France", " Spain", " Italy", " Japan", " Paris", " Madrid", " Rome", " Tokyo"]), context=99
    )
    split = load_split("capital_of", few, examples=8)
    assert (len(split.search), len(split.parts["validation"]), len(split.parts["test"])) == (8, 3, 13)
    with pytest.raises(
        SettingsError, match="2 different prompts besides the 22 search prompts, and a split needs at least 3: 1 for "
    ):
        load_split("capital_of", few, examples=22)
    assert (
        len(load_split("capital_of", few, examples=21).parts["test"]),
        *texts(load_split("capital_of", few, split="100/0/0")),
    ) == (
        2,
        "search",
    )
    with pytest.raises(SettingsError, match="24 different prompts were found"):
        load_split("capital_of", few, examples=25)


def test_shares_of_a_built_in_task_are_for_each_prompt_of_the_search():
    split = load_split("ioi", WELL_READ, examples=20, split="50/0/50")
    assert {name: len(part) for name, part in split.parts.items()} == {"search": 20, "test": 20}
    assert set(load_split("ioi", WELL_READ, examples=20, split=(100, 0, 0)).parts) == {"search"}


def test_too_few_pairs_are_refused_with_the_minimum_and_the_way_out(tmp_path: Path):
    file = file_of(tmp_path, [100, 101, 102, 103, 104, 104])
    with pytest.raises(
        SettingsError, match=r"numbers.jsonl has 5 different prompts, and a split needs at least 6: 3 for .*--split 100/0/0"
    ):
        load_split(file, LETTERS)
    assert len(load_split(file, LETTERS, split="100/0/0").search) == 6
    with pytest.raises(SettingsError, match="1 different prompt besides the 4 search pairs, and a split needs at least 3"):
        load_split(file, LETTERS, examples=4)
    assert {name: len(part) for name, part in load_split(file, LETTERS, examples=2).parts.items()} == {
        "search": 2,
        "validation": 1,
        "test": 3,
    }


@pytest.mark.parametrize(
    "text", ["50/20", "50/20/20", "0/50/50", "a/b/c", "", "50/-20/70", "50/nan/50", "120/-10/-10", "50/20/30/0"]
)
def test_shares_that_are_none_are_refused(text: str):
    with pytest.raises(SettingsError, match=f"split {text}: .*such as 50/20/30"):
        parse_shares(text)


def test_a_split_of_ones_own_must_share_nothing_and_be_one_task():
    first, other = (
        load_task("ioi", WELL_READ, examples=4),
        load_held_out("ioi", WELL_READ, load_task("ioi", WELL_READ, examples=4), examples=4),
    )
    assert set(Split(first, None, other).parts) == {"search", "test"}
    with pytest.raises(SettingsError, match="search and test prompts of ioi have 4 prompts in common"):
        Split(first, other, first)
    with pytest.raises(SettingsError, match=r"search prompts are of task ioi .* test prompts of task sva"):
        Split(first, None, sva(WELL_READ, examples=4))
    with pytest.raises(
        SettingsError, match="search prompts were made for toy, the test prompts for toy, which has another tokenizer"
    ):
        Split(induction(WELL_READ, examples=2), None, induction(LETTERS, examples=2, seed=1))
    with pytest.raises(SettingsError, match="a split is made of one task"):
        Split(load_task("capital_of", WELL_READ, examples=4), sva(WELL_READ, examples=4), None)


def task_of(prompts: list[list[int]]) -> Task:
    """Prompts that need not be distinct, with different numbers of answers."""
    answers = [Answer(index, pos, (index + 7,)) for index, prompt in enumerate(prompts) for pos in range(len(prompt))]
    return build_task_of_ids("ids", prompts, [[9, *prompt[1:]] for prompt in prompts], answers, MODEL, parameters={"a": 1})


@settings(deadline=None, max_examples=40)
@given(TOKENS, TOKENS)
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
    found_with, drawn = (
        load_task("capital_of", WELL_READ, examples=32, seed=0),
        load_task("capital_of", WELL_READ, examples=96, seed=1),
    )
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
