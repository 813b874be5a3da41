"""``view`` and ``report`` as a shell calls them."""

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import pytest
import uvicorn

from subcircuit.cli.circuits import shown_circuits
from subcircuit.errors import Stopped
from subcircuit.graph import Circuit
from subcircuit.runs import DiscoverSpec, ProgressFile, SqliteJournal, SweepSpec, ValidateSpec, run_in
from subcircuit.search import Progress
from subcircuit.viewer.run_folders import progress_of
from tests.cli.conftest import Output

SPECS = {
    "discover": DiscoverSpec(model="m", task="t"),
    "sweep": SweepSpec(model="m", task="t", methods=["eap"]),
    "validate": ValidateSpec(case="and-gate"),
}


@pytest.fixture
def run(subcircuit: Callable[..., Output], model: str, prompts: Path) -> str:
    found = subcircuit(
        "discover", "--model", model, "--task", prompts, "--method", "eap-ig-inputs", "--edges", "40", "--out", "run"
    )
    assert found.code == 0
    return "run"


@pytest.mark.slow
def test_a_report_is_one_file(subcircuit: Callable[..., Output], run: str, model: str, prompts: Path) -> None:
    done = subcircuit("report", run, "--model", model, "--task", prompts, "--points", "3")
    assert done.code == 0, done.err
    assert done.out.startswith("report   circuit.html")
    text = Path("circuit.html").read_text()
    assert '"patterns"' in text
    assert '"faithfulness"' in text
    assert str(Path(model).parent) not in text
    again = subcircuit("report", run)
    assert again.code == 2
    assert "exists" in again.err


@pytest.mark.slow
@pytest.mark.parametrize("command", ["view", "report"])
def test_what_is_no_run_or_is_newer_is_refused(subcircuit: Callable[..., Output], command: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "circuit.json").write_text('{"format": 99}')
    for name, complaint in (("empty", "there is no circuit here"), ("newer", "the newest that this version reads")):
        refused = subcircuit(command, name)
        assert refused.code == 2
        assert complaint in refused.err
        assert "Traceback" not in refused.err


@pytest.mark.parametrize(
    ("command", "works", "words"),
    [
        ("sweep", True, "writes tables and figures but no circuit: it is done, with 1 unit"),
        ("validate", False, "writes tables and figures but no circuit: it is stopped, with 1 unit"),
        ("discover", False, "has no circuit yet: it is stopped, with 1 units of work done. Resume it: subcircuit resume run"),
    ],
)
def test_of_a_run_without_a_circuit_it_is_said_why(
    subcircuit: Callable[..., Output], command: str, works: bool, words: str
) -> None:
    def work(journal: SqliteJournal) -> None:
        journal.record("a unit", b"done")
        if not works:
            raise Stopped("stopped")

    with nullcontext() if works else pytest.raises(Stopped):
        run_in(Path("run"), SPECS[command], {}, work)
    refused = subcircuit("view", "run")
    assert refused.code == 2
    assert words in refused.err


@pytest.mark.slow
def test_a_zoom_is_seen_as_it_goes(
    subcircuit: Callable[..., Output], model: str, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--model", model, "--task", many)
    begun = ("--method", "eap-ig-inputs", "--scope", "block", "--examples", 2, "--edges", "100%", "--out", "base")
    assert subcircuit("discover", *given, *begun).code == 0
    monkeypatch.setattr("subcircuit.runs.progress.SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr("subcircuit.runs.progress._SHARE", 0)
    show, seen = ProgressFile.step, []

    def step(progress_file: ProgressFile, one: Progress) -> None:
        if one.share == 1 and one.circuit is not None:
            show(progress_file, one)
            assert progress_of([Path("inside")])["running"]
            seen.append(shown_circuits([Path("inside")])[0].circuit)

    monkeypatch.setattr(ProgressFile, "step", step)
    done = subcircuit("zoom", "base", "a1", "--into", "head", "--threshold", 0.001, *given, "--out", "inside")
    assert done.code == 0, done.err
    found = Circuit.load(Path("inside"))
    assert found.graph != Circuit.load(Path("base")).graph
    assert seen[-1].kept.equal(found.kept)
    assert progress_of([Path("inside")])["words"] == ""


def test_circuits_of_a_page_have_the_shortest_names_that_differ() -> None:
    from subcircuit.cli.circuits import names_of

    assert names_of([Path("/x/a"), Path("/y/b")]) == ["a", "b"]
    assert names_of([Path("/x/a"), Path("/y/a")]) == ["x/a", "y/a"]
    assert names_of([Path("/x/a"), Path("/x/a")]) == ["a (1)", "a (2)"]


@pytest.mark.slow
def test_view_says_where_it_is_and_that_no_browser_opens(
    subcircuit: Callable[..., Output], run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("subcircuit.viewer.serve"), "SECONDS_TO_START", 0.0)
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: time.sleep(0.3))
    done = subcircuit("view", run, "--port", "8720")
    assert done.code == 0
    assert "viewer   http://127.0.0.1:87" in done.err
    assert "no browser was found" in done.err
    monkeypatch.setattr("webbrowser.open", lambda address: pytest.fail("a browser was opened"))
    assert subcircuit("view", run, "--no-browser").code == 0


@pytest.mark.slow
def test_serving_leaves_the_logging_of_the_process_alone(
    subcircuit: Callable[..., Output], run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[logging.Handler] = []

    class Handler(logging.NullHandler):
        def close(self) -> None:
            closed.append(self)
            super().close()

    handler = Handler()
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    assert subcircuit("view", run, "--no-browser").code == 0
    assert not closed
    handler.close()
