"""The directory of a run: whole or not at all, and never over anything."""

import os
from pathlib import Path

import pytest

from subcircuit.errors import OutputError
from subcircuit.graph import Circuit, Graph, GraphShape, Scope
from subcircuit.report import new_directory, write_run
from tests.graph.strategies import record

GRAPH = Graph(GraphShape(1, 2, 2), Scope())
CIRCUIT = Circuit(GRAPH, GRAPH.edges, None, record())


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_reloads(tmp_path: Path) -> None:
    assert write_run(CIRCUIT, "deep/down/run") == Path("deep/down/run")
    assert Circuit.load("deep/down/run") == CIRCUIT
    assert os.listdir("deep/down") == ["run"]
    assert Path("deep/down/run").stat().st_mode & 0o777 == Path("deep").stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("smollm2-135m", "ioi-smollm2-135m-1"),
        ("openai-community/gpt2", "ioi-gpt2-1"),
        ("/home/me/models/tiny/", "ioi-tiny-1"),
        ("C:\\models\\tiny.gguf", "ioi-tiny-1"),
        ("..", "ioi-run-1"),
        ("a b;$(rm)\x00\n", "ioi-a-b-rm-1"),
    ],
)
def test_default_names_hold_nothing_that_means_something(model: str, expected: str) -> None:
    assert new_directory(None, "ioi", model) == Path("runs") / expected
    assert os.listdir() == []


def test_checking_leaves_nothing_behind() -> None:
    assert new_directory("a/b", "ioi", "m") == Path("a/b")
    assert os.listdir() == []


def test_what_exists_is_never_touched() -> None:
    Path("full").mkdir()
    Path("full/x").write_text("x")
    Path("file").write_text("x")
    Path("link").symlink_to("nowhere")
    for place in ("full", "file", "link", "file/below"):
        for refuse in (lambda place=place: new_directory(place, "t", "m"), lambda place=place: write_run(CIRCUIT, place)):
            with pytest.raises(OutputError):
                refuse()
    assert sorted(os.listdir()) == ["file", "full", "link"]
    assert os.listdir("full") == ["x"]


def test_a_directory_that_appears_during_the_search_is_not_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(_: Circuit, __: Path) -> None:
        Path("run").mkdir()
        Path("run/theirs").write_text("theirs")

    monkeypatch.setattr("subcircuit.report.picture.save_picture", meanwhile)
    with pytest.raises(OutputError):
        write_run(CIRCUIT, "run")
    assert os.listdir() == ["run"]
    assert os.listdir("run") == ["theirs"]


def test_impossible_paths_are_refused() -> None:
    for place in ("a\x00b", "x" * 5000):
        with pytest.raises(OutputError):
            new_directory(place, "t", "m")
