"""``explain`` from end to end on a tiny random model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Output

pytestmark = pytest.mark.slow

Run = Callable[..., Output]


@pytest.fixture
def found(subcircuit: Run, model: str, tmp_path: Path) -> Path:
    """A circuit of prompts with roles."""
    file = tmp_path / "words.jsonl"
    pairs = [
        {"clean": f"w3 w{i} w5 w{i}", "corrupt": f"w3 w{i + 1} w5 w{i}", "answers": [f" w{i}"], "wrong_answers": [f" w{i + 1}"]}
        | {"roles": {"A1": 1, "A2": 3}}
        for i in (10, 20, 30, 40, 44, 48)
    ]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    done = subcircuit("discover", "--model", model, "--task", file, "--method", "eap-ig-inputs", "--edges", 60, "--out", "found")
    assert done.code == 0, done.err
    return tmp_path / "found"


def test_a_circuit_is_explained(subcircuit: Run, model: str, found: Path) -> None:
    arguments = ("explain", found, "--model", model, "--task", found.parent / "words.jsonl")
    done = subcircuit(*arguments, "--json")
    assert done.code == 0, done.err
    content = done.json
    assert content == json.loads((found / "explanation.json").read_text(encoding="utf-8"))
    assert set(content["roles"]) == {"START", "A1", "END", "rest"}
    assert (found / "attention.svg").exists() and (found / "attention.png").exists()
    told = subcircuit(*arguments, "--top", 3, "--out", "elsewhere")
    assert told.code == 0, told.err
    names = [line.split()[0] for line in told.out.splitlines() if line[:1].isalpha() and " effect " in line]
    assert len(names) == 3 and names == [name for name in content["components"] if name in names]
    assert "--top 0 tells of all" in told.out
    assert (found.parent / "elsewhere" / "explanation.json").exists()
    # the figure and the story are made again in place of the old ones
    assert subcircuit(*arguments).code == 0


def test_prompts_without_roles_are_told_of(subcircuit: Run, model: str, prompts: Path) -> None:
    done = subcircuit(
        "discover",
        "--model",
        model,
        "--task",
        prompts,
        "--method",
        "eap",
        "--metric",
        "logit_difference",
        "--edges",
        60,
        "--out",
        "bare",
    )
    assert done.code == 0, done.err
    explained = subcircuit("explain", "bare", "--model", model, "--task", prompts, "--json")
    assert explained.code == 0
    assert "declare no token roles" in explained.err
    assert explained.json["roles"] == ["START", "END", "rest"]


def test_mistakes_are_one_paragraph(subcircuit: Run, found: Path, tmp_path: Path) -> None:
    from subcircuit.graph import Circuit

    circuit = Circuit.load(found)
    Circuit(circuit.graph, circuit.kept).save(tmp_path / "byhand")
    Circuit(circuit.graph, circuit.kept).save(tmp_path / "one.circuit.json")
    for arguments, message in (
        (("byhand",), "the circuit has no record of its model: give --model"),
        (("one.circuit.json",), "is not a directory: choose one"),
        (("nowhere",), "there is no circuit here"),
        ((found, "--top", -1), "--top -1: expected"),
        ((found, "--model", "tiny-induction-ioi"), "graphs differ in"),
    ):
        done = subcircuit("explain", *arguments)
        assert done.code == 2, arguments
        assert message in done.err.replace("\n", " ")
        assert "Traceback" not in done.err
