import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import PromptError, SettingsError, SubcircuitError
from subcircuit.tasks import PromptPair, Task, load_task
from tests.tasks.conftest import tokenizer_of, with_tokenizer, words_of

MODEL = with_tokenizer(tokenizer_of(words_of("When _Mary _John _Anna _met _gave _it _to Mary")))
PAIR = {"clean": "When John met Mary", "corrupt": "When Anna met Mary", "answers": [" Anna"], "wrong_answers": [" John"]}
OTHER = {**PAIR, "clean": "When Mary met Mary"}


def task_of(directory: Path, content: str | bytes, **options: Any) -> Task:
    path = directory / "mine.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_task(path, MODEL, **options)


def lines(*items: Any) -> str:
    return "".join(f"{json.dumps(item)}\n" for item in items)


def test_a_file_becomes_a_task(tmp_path: Path):
    content = lines(PAIR, OTHER)
    task = task_of(tmp_path, content)
    assert task.pairs == (
        PromptPair("When John met Mary", "When Anna met Mary", (" Anna",), (" John",)),
        PromptPair("When Mary met Mary", "When Anna met Mary", (" Anna",), (" John",)),
    )
    # no directory: records are shared
    expected = {"file": "mine.jsonl", "sha256": sha256(content.encode()).hexdigest(), "examples": 2, "bos": "auto"}
    assert (task.name, task.parameters) == ("mine", expected)
    assert task_of(tmp_path, content, examples=1).digest == task[:1].digest


@pytest.mark.parametrize(
    "content",
    [
        lines(PAIR).strip(),
        lines(PAIR).replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + lines(PAIR).encode(),
        "\n  \n" + lines(PAIR) + "\n\n",
        lines({**PAIR, "word_idxs": {"S1": 1}, "seq_labels": ["a", "b"]}),
    ],
)
def test_harmless_variations_read_the_same(tmp_path: Path, content: str | bytes):
    assert task_of(tmp_path, content).digest == task_of(tmp_path, lines(PAIR)).digest


@pytest.mark.parametrize("wrong", [{}, {"wrong_answers": []}, {"wrong_answers": None}])
def test_wrong_answers_may_be_left_out(tmp_path: Path, wrong: dict[str, Any]):
    kept = {key: value for key, value in PAIR.items() if key != "wrong_answers"}
    assert task_of(tmp_path, lines({**kept, **wrong})).answers.wrong.shape == (1, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"mine\.jsonl contains no prompts"),
        (" \n\n", r"mine\.jsonl contains no prompts"),
        (lines(PAIR) + "\n{'clean': 1}\n", r"mine\.jsonl:3: not JSON: Expecting property name .* at column 2"),
        ("[" * 100_000, r"mine\.jsonl:1: not JSON"),
        (lines(PAIR)[:-2], r"mine\.jsonl:1: not JSON"),
        (lines(PAIR, [PAIR]), r"mine\.jsonl:2: a line must be a JSON object; this is a list"),
        (lines(PAIR, None), r"mine\.jsonl:2: a line must be a JSON object; this is null"),
        (lines(PAIR, {"clean": "a", "corrupt": "b"}), r"mine\.jsonl:2: 'answers' is missing"),
        (lines({**PAIR, "corrupted": "b"}), r"mine\.jsonl:1: unknown key 'corrupted'"),
        (lines({**PAIR, "clean": 3}), r"mine\.jsonl:1: 'clean' must be text; this is a number"),
        (lines({**PAIR, "answers": " Mary"}), r"mine\.jsonl:1: 'answers' must be a list of texts .* this is text"),
        (lines({**PAIR, "answers": [True]}), r"mine\.jsonl:1: 'answers' must be a list of texts .* this is a list of other"),
        ('{"clean": "a", "clean": "b", "corrupt": "c", "answers": []}', r"mine\.jsonl:1: key 'clean' occurs twice"),
        (lines(PAIR).encode() + b'{"clean": "\xff"}', r"mine\.jsonl:2: not UTF-8 \(byte 11"),
        (lines(PAIR) + "x" * (2**20 + 1), r"mine\.jsonl:2: the line is longer than 1048576 bytes"),
        (lines(PAIR) + "\n" + lines(PAIR), r"pair 1 \(mine\.jsonl:1\) and pair 2 \(mine\.jsonl:3\) are the same"),
        (lines(PAIR, {**PAIR, "clean": "When Zoe met Mary"}), r"pair 2 \(mine\.jsonl:2\): clean has"),
        (lines(PAIR, {**OTHER, "answers": []}), r"pair 2 \(mine\.jsonl:2\): no answer"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path: Path, content: str | bytes, message: str):
    with pytest.raises(PromptError, match=message):
        task_of(tmp_path, content)


def test_what_is_no_file_is_refused(tmp_path: Path):
    with pytest.raises(PromptError, match=r"cannot read .*absent\.jsonl: No such file"):
        load_task(tmp_path / "absent.jsonl", MODEL)
    (tmp_path / "directory.jsonl").mkdir()
    with pytest.raises(PromptError, match="is not a file"):
        load_task(str(tmp_path / "directory.jsonl"), MODEL)


def test_more_pairs_than_there_are_is_refused(tmp_path: Path):
    with pytest.raises(PromptError, match=r"examples is 2, and mine\.jsonl has only 1 pair"):
        task_of(tmp_path, lines(PAIR), examples=2)
    with pytest.raises(SettingsError, match="at least 1"):
        task_of(tmp_path, lines(PAIR), examples=0)


@settings(deadline=None, max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=80), st.text(max_size=80).map(str.encode), st.from_regex(rb'\{"clean": .{0,30}\}', fullmatch=True)
    )
)
def test_whatever_bytes_a_file_holds_only_our_errors_are_raised(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    with pytest.raises(SubcircuitError):
        task_of(tmp_path_factory.getbasetemp(), content)
