"""A run from Python is the search it asks for, resumes where it was interrupted, and is the run of the command line."""

from pathlib import Path

import pytest

import subcircuit as sc
from subcircuit.cli.main import main
from subcircuit.errors import RunError, Stopped
from subcircuit.runs import SqliteJournal
from subcircuit.runs.folder import damage

SPEC = sc.DiscoverSpec(model="tiny-induction-ioi", task="induction", examples=4, scope="head", method="eap-ig-inputs", edges="30")


def test_a_run_finds_what_the_same_search_finds_and_keeps_it(tmp_path: Path) -> None:
    said: list[str] = []
    circuit = sc.run(SPEC, tmp_path / "run", say=said.append)
    loaded = SPEC.load()
    found = sc.discover(loaded.problem, loaded.method, selection=loaded.selection)
    assert circuit.names == found.circuit.names
    saved = sc.Circuit.load(tmp_path / "run")
    assert (saved.names, saved.record) == (circuit.names, circuit.record)
    assert damage(tmp_path / "run") == []
    assert "held out: 64 test prompts, 16 validation prompts" in said


def test_a_run_from_the_command_line_has_the_same_files(tmp_path: Path) -> None:
    sc.run(SPEC, tmp_path / "python")
    options = "--examples 4 --scope head --method eap-ig-inputs --edges 30"
    given = ["discover", "-m", SPEC.model, "-t", SPEC.task, *options.split(), "--out", str(tmp_path / "shell")]
    assert main(given) == 0
    assert {file.name for file in (tmp_path / "python").iterdir()} == {file.name for file in (tmp_path / "shell").iterdir()}
    same = ("run.json", "scores.safetensors", "circuit.svg")
    assert all((tmp_path / "python" / name).read_bytes() == (tmp_path / "shell" / name).read_bytes() for name in same)


def test_an_interrupted_run_resumes_and_another_spec_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = SqliteJournal.record

    def interrupted(self: SqliteJournal, key: str, result: bytes) -> None:
        write(self, key, result)
        raise Stopped("stopped")

    spec = SPEC.changed(settings={"batch_size": 1})
    assert isinstance(spec, sc.DiscoverSpec)
    with monkeypatch.context() as patched:
        patched.setattr(SqliteJournal, "record", interrupted)
        with pytest.raises(Stopped):
            sc.run(spec, tmp_path / "run")
    with pytest.raises(RunError, match="edges was 30, is 31"):
        sc.run(sc.DiscoverSpec(**{**dict(spec), "edges": "31"}), tmp_path / "run")
    circuit = sc.run(spec, tmp_path / "run")
    assert circuit.names == sc.run(spec, tmp_path / "whole").names
