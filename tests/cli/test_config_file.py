"""``--config``: a file stands for the options it names, the command line counts more, a run can be found again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from subcircuit.graph import Circuit
from subcircuit.runs import read_run
from tests.cli.conftest import Output

Run = Callable[..., Output]


@pytest.mark.slow
def test_a_file_stands_for_its_options(subcircuit: Run, model: str, prompts: Path) -> None:
    asked = subcircuit("discover", "-m", model, "-t", prompts, "--method", "eap-ig-inputs", "--set", "steps=3", "--edges", "20%")
    assert asked.code == 0, asked.err
    Path("a.yaml").write_text(
        f"model: {model}\ntask: {prompts}\nmethod: eap-ig-inputs\nset: {{steps: 3}}\nedges: 20%\nout: from-yaml\n"
    )
    Path("a.toml").write_text(
        f'model = "{model}"\ntask = "{prompts}"\nmethod = "eap-ig-inputs"\nset = ["steps=9"]\nedges = "20%"\nsplit-embeddings = false\n'
    )
    assert subcircuit("discover", "--config", "a.yaml").code == 0
    assert subcircuit("discover", "--set", "steps=3", "--config", "a.toml", "--out", "from-toml").code == 0
    expected = Circuit.load("runs/words-tiny-llama-1")
    for folder in ("from-yaml", "from-toml"):
        circuit = Circuit.load(folder)
        assert circuit.names == expected.names
        assert circuit.record is not None
        assert circuit.record.method.parameters["steps"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--method", "eap-ig-inputs", "--set", "steps=2", "--metric", "logit_difference", "--edges", 30, "--greedy"),
        ("--method", "eap", "--metric", "logit_difference", "--threshold", 0.01, "--by", "signed", "--scope", "head"),
        ("--threshold", 0.3, "--no-whole-input", "--absolute", "--ablation", "zero", "--seed", 3),
    ],
)
def test_a_run_is_found_again_from_its_own_record(options: tuple[object, ...], subcircuit: Run, model: str) -> None:
    first = subcircuit("discover", "-m", model, "-t", "induction", "--examples", 2, *options, "--out", "first")
    assert first.code == 0, first.err
    one = Circuit.load("first")
    for source in ("first", "first/circuit.json"):
        out = source.replace("first", "again").replace("/", "-")
        again = subcircuit("discover", "--config", source, "--model", model, "--out", out)
        assert again.code == 0, again.err
        other = Circuit.load(out)
        assert (one.graph, one.names) == (other.graph, other.names)
        assert one.record is not None
        assert other.record is not None
        for part in ("model", "task", "method", "ablation", "metric", "seed"):
            assert getattr(one.record, part) == getattr(other.record, part)
    # of a run, what was asked for word by word
    assert read_run(Path("again")).spec == read_run(Path("first")).spec


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "tresholds: 1", ["unknown option 'tresholds'", "'threshold'", "a.yaml"]),
        ("a.yaml", "model: [1, {a: b}]", ["model must be a text"]),
        ("a.yaml", "model: a\nmodel: b", ["twice"]),
        ("a.yaml", "model: !!python/object:os.system x", ["cannot be read"]),
        ("a.yaml", "- model", ["expected one `option: value`"]),
        ("a.yaml", "threshold: small", ["--threshold"]),
        ("a.toml", "model = ", ["cannot be read"]),
        ("a.toml", 'config = "a.toml"', ["unknown option 'config'"]),
        ("a.ini", "", [".yaml or .toml"]),
        ("circuit.json", "{}", ["circuit.json"]),
        ("run.json", "{}", ["run.json is damaged"]),
    ],
)
def test_mistakes_in_a_file_are_told(name: str, text: str, words: list[str], subcircuit: Run) -> None:
    Path(name).write_text(text)
    done = subcircuit("discover", "--model", "x", "--task", "ioi", "--config", name)
    assert (done.code, done.out) == (2, "")
    for word in words:
        assert word in done.err
    assert subcircuit("discover", "--config", "nowhere.yaml").code == 2


@pytest.mark.slow
def test_an_argument_can_stand_in_a_file(subcircuit: Run) -> None:
    Path("v.toml").write_text('case = "induction"\nmethods = ["eap", "random"]\nmetric = "logit_difference"\n')
    done = subcircuit("validate", "--config", "v.toml", "--json")
    assert done.code == 0, done.err
    assert {one["method"] for one in done.json["results"]} == {"eap", "random"}
