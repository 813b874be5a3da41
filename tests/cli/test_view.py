"""``view`` and ``report`` as a shell calls them."""

import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import uvicorn

from tests.cli.conftest import Output


@pytest.fixture
def run(subcircuit: Callable[..., Output], model: str, prompts: Path) -> str:
    found = subcircuit("discover", "--model", model, "--task", prompts, "--method", "eap", "--edges", "40", "--out", "run")
    assert found.code == 0
    return "run"


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


@pytest.mark.parametrize("command", ["view", "report"])
def test_what_is_no_run_or_is_newer_is_refused(subcircuit: Callable[..., Output], command: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "circuit.json").write_text('{"format": 99}')
    for name, complaint in (("empty", "there is no circuit here"), ("newer", "newer than this version reads")):
        refused = subcircuit(command, name)
        assert refused.code == 2
        assert complaint in refused.err
        assert "Traceback" not in refused.err


def test_circuits_of_a_page_have_the_shortest_names_that_differ() -> None:
    from subcircuit.cli.shown import names_of

    assert names_of([Path("/x/a"), Path("/y/b")]) == ["a", "b"]
    assert names_of([Path("/x/a"), Path("/y/a")]) == ["x/a", "y/a"]
    assert names_of([Path("/x/a"), Path("/x/a")]) == ["a (1)", "a (2)"]


def test_view_says_where_it_is_and_that_no_browser_opens(
    subcircuit: Callable[..., Output], run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("subcircuit.viewer.serve"), "SECONDS_TO_START", 0.0)
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: time.sleep(0.3))
    done = subcircuit("view", run, "--port", "8720")
    assert done.code == 0
    assert "viewer   http://127.0.0.1:87" in done.err
    assert "no browser could be opened" in done.err
    monkeypatch.setattr("webbrowser.open", lambda address: pytest.fail("a browser was opened"))
    assert subcircuit("view", run, "--no-browser").code == 0
