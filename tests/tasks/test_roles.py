"""Token roles: what every task names is where its text has it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import PromptError, UnknownNameError
from subcircuit.model import Transformer
from subcircuit.tasks import Answer, Roles, Task, build_task_of_ids, load_task, tasks
from subcircuit.tasks.builtin.capital_of import CAPITALS
from subcircuit.tasks.roles import REST, filled
from subcircuit.truth.trained import trained_ioi
from tests.tasks.conftest import WELL_READ, tokenizer_of, with_tokenizer, words_of

MODEL = with_tokenizer(tokenizer_of(words_of("When _Mary _John _Anna _met _gave _it _to Mary"), adds_bos=True))
PAIR = {"clean": "When John met Mary", "corrupt": "When Anna met Mary", "answers": [" Anna"], "wrong_answers": [" John"]}
SEEDS = st.integers(0, 10**6)
ROLES = {
    "ioi": {"IO", "S1", "S1+1", "S2", "START", "END"},
    "sva": {"subject", "attractor", "START", "END"},
    "greater_than": {"noun", "XX", "YY", "START", "END"},
    "docstring": {"A_def", "B_def", "C_def", "D_def", "A_doc", "B_doc", "START", "END"},
    "gendered_pronoun": {"name", "is", "adjective", "noun", "START", "END"},
    "capital_of": {"country", "START", "END"},
    "induction": {"first", "END"},
}


def texts(model: Transformer, task: Task, role: str) -> list[str]:
    """The text that has a role in each prompt."""
    assert task.roles is not None and model.tokenizer is not None
    rows = zip(task.clean.ids, task.roles.mask(role), strict=True)
    return [str(model.tokenizer.decode(ids[here].tolist())).strip() for ids, here in rows]


def positions(task: Task) -> list[dict[str, list[int]]]:
    """The positions of each role in each prompt, ``rest`` left out."""
    assert task.roles is not None
    return [
        {name: here for i, name in enumerate(task.roles.names) if i and (here := (row == i).nonzero().flatten().tolist())}
        for row in task.roles.of
    ]


def assert_countries(model: Transformer, task: Task) -> None:
    """All tokens of the country have the role, as often as the prompt names it."""
    country_of = {f" {capital}": country for country, capital in CAPITALS.items()}
    for pair, named in zip(task.pairs, texts(model, task, "country"), strict=True):
        country = country_of[pair.answers[0]]
        assert named.split(country) == ["", *[" " if " " in named else ""] * ((pair.clean or "").count(country) - 1), ""]


def file_of(directory: Path, *extras: dict[str, Any]) -> Path:
    path = directory / "mine.jsonl"
    clean = ("When John met Mary", "When Mary met Mary")
    path.write_text(
        "".join(f"{json.dumps({**PAIR, 'clean': text, **more})}\n" for text, more in zip(clean, extras, strict=False))
    )
    return path


def test_every_task_declares_roles_and_ends_where_answers_are_read():
    assert {listed.name for listed in tasks()} == set(ROLES)
    for name, expected in ROLES.items():
        task = load_task(name, WELL_READ, examples=24, seed=3)
        assert task.roles is not None
        assert set(task.roles.names) == {REST, *expected}
        read = torch.zeros_like(task.clean.ids, dtype=torch.bool)
        read[task.answers.example, task.answers.pos] = True
        assert torch.equal(task.roles.mask("END"), read)
        past = torch.arange(read.shape[1]) >= task.clean.lengths[:, None]
        assert not task.roles.of[past].any()


@settings(deadline=None, max_examples=10)
@given(SEEDS)
def test_names_are_where_indirect_object_and_subject_are(seed: int):
    task = load_task("ioi", WELL_READ, examples=6, seed=seed)
    indirect, subject = (
        [text.strip() for (text,) in column] for column in zip(*((p.answers, p.wrong_answers) for p in task.pairs), strict=True)
    )
    assert texts(WELL_READ, task, "IO") == indirect
    assert texts(WELL_READ, task, "S1") == texts(WELL_READ, task, "S2") == subject
    for places in positions(task):
        assert places["S1+1"] == [places["S1"][0] + 1]
        assert places["S1"] < places["S2"] and places["START"] == [0]


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(SEEDS)
def test_words_of_templates_are_where_their_roles_are(seed: int):
    capital = load_task("capital_of", WELL_READ, examples=6, seed=seed)
    assert_countries(WELL_READ, capital)
    docstring = load_task("docstring", WELL_READ, examples=6, seed=seed)
    for one, other in (("A_def", "A_doc"), ("B_def", "B_doc")):
        assert texts(WELL_READ, docstring, one) == texts(WELL_READ, docstring, other)
    assert texts(WELL_READ, docstring, "C_def") == [pair.answers[0].strip() for pair in docstring.pairs]
    greater = load_task("greater_than", WELL_READ, examples=6, seed=seed)
    for century, year, pair in zip(texts(WELL_READ, greater, "XX"), texts(WELL_READ, greater, "YY"), greater.pairs, strict=True):
        assert f"the year {century}{year} to the year {century}" in (pair.clean or "")


def test_roles_follow_examples():
    task = load_task("capital_of", WELL_READ, examples=12)
    wanted = torch.tensor([False, True, False, True] * 3)
    assert positions(task.where(wanted)) == [places for places, kept in zip(positions(task), wanted, strict=True) if kept]
    assert positions(task[2:5]) == positions(task)[2:5]


def test_roles_of_real_tokenizers(real_model: Transformer):
    task = load_task("ioi", real_model, examples=8)
    assert texts(real_model, task, "IO") == [pair.answers[0].strip() for pair in task.pairs]
    assert (
        texts(real_model, task, "S1") == texts(real_model, task, "S2") == [pair.wrong_answers[0].strip() for pair in task.pairs]
    )
    assert set(texts(real_model, task, "S1+1")) <= {"and", "went", "had", "were", "got", "found"}
    assert all(len(places[role]) == 1 for places in positions(task) for role in ("IO", "S1", "S1+1", "S2", "START", "END"))
    assert_countries(real_model, load_task("capital_of", real_model, examples=30))
    year = load_task("greater_than", real_model, examples=8)
    assert all(
        f"{xx}{yy} to" in (pair.clean or "")
        for xx, yy, pair in zip(texts(real_model, year, "XX"), texts(real_model, year, "YY"), year.pairs, strict=True)
    )


def test_the_trained_models_prompts_name_the_giver_twice():
    task = trained_ioi(WELL_READ, examples=20)
    assert task.roles is not None
    ids = task.clean.ids
    assert torch.equal(ids[task.roles.mask("S1")], ids[task.roles.mask("S2")])
    assert torch.equal(ids[task.roles.mask("IO")], task.answers.correct[:, 0])


@pytest.mark.parametrize(
    "declared",
    [
        {"roles": {"S1": 1, "it": [2, 3]}},
        {"roles": {"S1": [1], "it": [2, 3]}, "word_idxs": {"S2": 0}},
        {"seq_labels": ["!", "S1", "it", "it"]},
    ],
)
def test_a_file_may_name_roles(tmp_path: Path, declared: dict[str, Any]):
    task = load_task(file_of(tmp_path, declared, {"word_idxs": {"S1": 1}}), MODEL)
    # the beginning-of-sequence token is not counted; END is where answers are read, whatever else that is
    assert positions(task) == [{"START": [0], "S1": [2], "it": [3], "END": [4]}, {"START": [0], "S1": [2], "END": [4]}]


def test_a_file_without_roles_declares_none(tmp_path: Path):
    assert load_task(file_of(tmp_path, {}), MODEL).roles is None
    named = load_task(file_of(tmp_path, {"roles": {"END": [1]}}), MODEL)
    assert positions(named) == [{"START": [0], "END": [2]}]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"roles": {"S1": 4}}, r"pair 1 \(mine\.jsonl:1\): role S1 is at position 5, and the prompt has 5 tokens"),
        ({"roles": {"S1": -2}}, "role S1 is at position -1"),
        ({"seq_labels": ["a"] * 5}, "role a is at position 5"),
        ({"roles": {"S1": 1, "S2": [0, 1]}}, "position 2 has two roles, S1 and S2"),
        ({"roles": {"a->b": 1}}, "'a->b' is not a valid role"),
        ({"roles": {"7": 1}}, "'7' is not a valid role"),
        ({"roles": {"S1": "x"}}, r"mine\.jsonl:1: role 'S1' must be a position such as 3 .* this is text"),
        ({"roles": {"S1": [True]}}, "this is a list of other things"),
        ({"roles": [1]}, r"'roles' must be an object such as \{\"IO\": 3\}; this is a list"),
    ],
)
def test_roles_that_do_not_fit_are_refused(tmp_path: Path, declared: dict[str, Any], message: str):
    with pytest.raises(PromptError, match=message):
        load_task(file_of(tmp_path, declared), MODEL)


def test_an_unknown_role_gets_a_suggestion():
    task = build_task_of_ids("t", [[3, 4]], [[4, 4]], [Answer(0, 1, (1,))], MODEL, parameters={}, roles=[{"thing": [0]}])
    assert task.roles is not None
    with pytest.raises(UnknownNameError, match="Did you mean 'thing'"):
        task.roles.mask("thin")


@settings(deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 3), max_size=3), max_size=3), min_size=1, max_size=4)
)
def test_masks_are_what_was_named_last(named: list[dict[str, list[int]]]):
    roles = Roles.from_positions(named, [4] * len(named))
    for row, prompt in enumerate(named):
        last = {position: name for name, places in prompt.items() for position in places}
        for name in roles.names[1:]:
            assert roles.mask(name)[row].nonzero().flatten().tolist() == [p for p in range(4) if last.get(p) == name]


def test_templates_are_filled_as_python_fills_them():
    text, spans = filled("{b}, {a} and {b}", {"a": "A", "b": "B"}, a="x y", b="zz")
    assert text == "{b}, {a} and {b}".format(a="x y", b="zz")
    assert [(span.role, text[span.start : span.stop]) for span in spans] == [("B", "zz"), ("A", "x y"), ("B", "zz")]
