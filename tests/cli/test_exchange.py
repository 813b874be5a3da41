"""``export``, ``import`` and ``mib-submission`` from end to end."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from subcircuit.graph import Circuit
from subcircuit.report.exchange import READ, WRITTEN
from tests.cli.conftest import Output

pytestmark = pytest.mark.slow

Run = Callable[..., Output]


@pytest.fixture
def found(subcircuit: Run, model: str, prompts: Path) -> Circuit:
    """A circuit in the directory ``found``."""
    done = subcircuit(
        "discover", "-m", model, "-t", prompts, "--method", "eap", "--edges", 90, "--metric", "logit_difference", "--out", "found"
    )
    assert done.code == 0, done.err
    return Circuit.load("found")


def test_a_circuit_goes_out_and_comes_back(subcircuit: Run, model: str, found: Circuit) -> None:
    for name in WRITTEN:
        done = subcircuit("export", "found", "--format", name)
        assert (done.code, done.err) == (0, "")
        file = Path(done.out.splitlines()[0].removeprefix("written   "))
        # a number is an estimate or what a cut cost in its turn: said for every format that holds the numbers
        assert ("scores    first-order estimate of the cost of cutting the edge alone" in done.out) == (name != "edge-pruning")
        assert file.is_file()
        assert file.parent == Path("found")
        if name in READ:
            back = subcircuit("import", file, "--model", model, "--out", f"back-{name}", "--json")
            assert back.code == 0, back.err
            assert back.json["edges_kept"] == found.n_edges
            assert Circuit.load(f"back-{name}").names == found.names
    again = subcircuit("export", "found", "--format", "csv")
    assert (again.code, again.out) == (2, "")
    assert "exists" in again.err


def test_mistakes_are_told(subcircuit: Run, model: str, found: Circuit) -> None:
    assert found.n_edges
    for arguments, words in {
        ("export", "found", "--format", "graphlm"): "'graphml'",
        ("export", "nowhere", "--format", "csv"): "no circuit here",
        ("import", "nowhere.csv", "--model", model): "No such file",
        ("import", "found/circuit.json", "--model", model): "subcircuit show",
        ("import", "found/circuit.json", "--model", model, "--format", "dot"): "for display",
        ("import", "found/circuit.json", "--model", model, "--scope", "heads"): "'head'",
        ("mib-submission", "found"): "--check FOLDER",
        ("mib-submission", "found", "--out", "a", "--format", "zip"): "unknown format",
        ("mib-submission", "--check", "found"): "is not a folder",
    }.items():
        done = subcircuit(*arguments)
        assert (done.code, done.out) == (2, ""), arguments
        assert words in done.err, (arguments, done.err)
        assert "Traceback" not in done.err


def test_a_submission_is_written_and_checked(subcircuit: Run, found: Circuit) -> None:
    done = subcircuit("mib-submission", "found", "--out", "folder", "--json")
    assert done.code == 0, done.err
    (entry,) = done.json["entries"]
    assert (entry["name"], entry["kind"], entry["edges"]) == ("words_tiny-llama", "importances", found.graph.n_edges)
    checked = subcircuit("mib-submission", "--check", "folder")
    assert checked.code == 0
    assert "words_tiny-llama" in checked.out
    assert "not one of its models" in checked.err
    assert json.dumps(entry["warnings"])
