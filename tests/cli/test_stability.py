"""``stability`` as a shell calls it: on a run, resumed, and refused where there is nothing to search again."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from subcircuit.errors import Stopped
from subcircuit.graph import Circuit
from subcircuit.runs import SqliteJournal
from tests.cli.conftest import Output

Run = Callable[..., Output]
SEARCH = ("-m", "tiny-induction-ioi", "-t", "induction", "--metric", "logit_difference", "--scope", "head")


def test_a_run_is_searched_again_on_halves_and_resumes(subcircuit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert subcircuit("discover", *SEARCH, "--method", "eap", "--edges", 30, "--out", "base").code == 0
    done = subcircuit("stability", "base", "--pairs", 2, "--out", "whole", "--json")
    assert done.code == 0, done.err
    circuit = Circuit.load("whole")
    assert (done.json["runs"], done.json["edges"], done.json["edges_before"]) == (
        4,
        circuit.n_edges,
        Circuit.load("base").n_edges,
    )
    with Path("whole/stability.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["edge"] for row in rows if row["in the consensus circuit"] == "True"] != []
    assert {row["edge"] for row in rows if row["in the consensus circuit"] == "True"} == set(circuit.names)
    assert all(float(row["share of runs"]) >= 0.9 for row in rows if row["in the consensus circuit"] == "True")
    assert circuit.record is not None and circuit.record.results["test"]["examples"] == 64
    shown = subcircuit("show", "whole")
    assert shown.code == 0 and "stability" in shown.out

    write, left = SqliteJournal.record, [3]

    def interrupted(self: SqliteJournal, key: str, result: bytes) -> None:
        write(self, key, result)
        left[0] -= 1
        if left[0] == 0:
            raise Stopped("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(SqliteJournal, "record", interrupted)
        assert subcircuit("stability", "base", "--pairs", 2, "--out", "run").code == 130
    resumed = subcircuit("resume", "run")
    assert resumed.code == 0, resumed.err
    assert json.loads(Path("run/circuit.json").read_text()) == json.loads(Path("whole/circuit.json").read_text())
    assert Path("run/stability.csv").read_bytes() == Path("whole/stability.csv").read_bytes()


def test_a_run_does_not_go_on_with_the_circuit_of_another_search(subcircuit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert subcircuit("discover", *SEARCH, "--method", "eap", "--edges", 30, "--out", "base").code == 0

    def interrupted(self: SqliteJournal, key: str, result: bytes, write: Callable[..., None] = SqliteJournal.record) -> None:
        write(self, key, result)
        raise Stopped("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(SqliteJournal, "record", interrupted)
        assert subcircuit("stability", "base", "--pairs", 2, "--out", "run").code == 130
    Path("base").rename("first")
    assert subcircuit("discover", *SEARCH, "--method", "eap-ig-inputs", "--edges", 30, "--out", "base").code == 0
    refused = subcircuit("resume", "run")
    assert (refused.code, "method was" in refused.err) == (2, True), refused.err


def test_where_there_is_nothing_to_search_again_it_is_refused(subcircuit: Run) -> None:
    assert subcircuit("discover", *SEARCH, "--threshold", 0.5, "--examples", 4, "--out", "few").code == 0
    for given, words in (((), "at least 8 search prompts"), (("--consensus", 0.4), "above 0.5"), (("--pairs", 0), "at least 1")):
        refused = subcircuit("stability", "few", *given, "--out", "new")
        assert (refused.code, words in refused.err) == (2, True), refused.err
        assert not Path("new").exists()
    assert subcircuit("refine", "few", "--set", "rounds=1", "--out", "refined").code in (0, 1)
    refused = subcircuit("stability", "refined")
    assert (refused.code, "that `subcircuit discover` wrote" in refused.err) == (2, True), refused.err
