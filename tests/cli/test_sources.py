"""Model and prompts of a run are found again by their digests, refused where they are others, and asked for where they are not here."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from subcircuit.graph import Circuit
from subcircuit.model import load_model
from subcircuit.model.load.builtin import SHIPPED
from subcircuit.model.weights import map_tensors
from subcircuit.nearby import nearby
from subcircuit.runs import is_same_model, read_run
from tests.cli.conftest import Output, written

Run = Callable[..., Output]
NAME = "tiny-induction-ioi"
SEARCH = ("--task", "induction", "--metric", "logit_difference", "--method", "eap", "--scope", "block", "--edges", 6)


def change(folder: Path) -> None:
    """Other weights in a folder of a checkpoint."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, file, metadata={"format": "pt"})


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with the name and the shape of a built-in model, and other weights."""
    folder = tmp_path / NAME
    shutil.copytree(SHIPPED[NAME].folder, folder)
    change(folder)
    return folder


@pytest.fixture
def run(subcircuit: Run, own: Path) -> Path:
    done = subcircuit("discover", "--model", f"./{NAME}", *SEARCH, "--out", "runs/own")
    assert done.code == 0, done.err
    return own.parent / "runs" / "own"


def evaluated(subcircuit: Run, *arguments: object) -> Output:
    return subcircuit("evaluate", *arguments, "--examples", 4, "--random-circuits", 1, "--json")


@pytest.mark.slow
def test_a_folder_with_the_name_of_a_built_in_model_is_found_again(
    subcircuit: Run, run: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = evaluated(subcircuit, run, "--model", own).json
    wrong = evaluated(subcircuit, run, "--model", NAME)
    assert wrong.code == 0
    assert "is another model" in wrong.err
    assert wrong.json["metric_model"] != right["metric_model"]
    assert evaluated(subcircuit, run).json == right
    # from elsewhere, and after both were moved together
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert evaluated(subcircuit, run).json == right
    moved = Path(shutil.copytree(run, tmp_path / "moved" / "runs" / "own"))
    shutil.move(own, tmp_path / "moved" / "models" / NAME)
    assert {**evaluated(subcircuit, moved).json, "circuit": ""} == {**right, "circuit": ""}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "explain", "zoom", "report", "remove", "discover"])
def test_a_model_that_is_not_here_is_asked_for(subcircuit: Run, run: Path, own: Path, command: str) -> None:
    shutil.rmtree(own)
    options = {
        "zoom": (run, "a1", "--into", "head", "--threshold", 0.1, "--out", "new"),
        "remove": (run, "--out", "new"),
        "discover": ("--config", run, "--out", "new"),
    }
    refused = subcircuit(command, *options.get(command, (run,)))
    assert refused.code == 2, refused.out
    if command == "discover":
        assert f"there is no file or directory './{NAME}'" in refused.err
    else:
        assert f"was found in {NAME}" in refused.err
        assert f"The model called {NAME} on this machine has digest" in refused.err
        assert "Give --model PATH" in refused.err
    assert not Path("new").exists()


@pytest.mark.slow
def test_a_folder_whose_weights_have_changed_is_not_taken(subcircuit: Run, run: Path, own: Path) -> None:
    change(own)
    refused = evaluated(subcircuit, run)
    assert (refused.code, "Give --model PATH" in refused.err) == (2, True)
    done = evaluated(subcircuit, run, "--model", own)
    assert (done.code, "is another model" in done.err) == (0, True)


@pytest.mark.slow
def test_options_of_a_run_are_those_of_its_own_model(subcircuit: Run, run: Path, own: Path) -> None:
    for source in (run, run / "circuit.json"):
        out = f"again-{source.name}"
        done = subcircuit("discover", "--config", source, "--out", out, "--edges", 4)
        assert done.code == 0, done.err
        records = [Circuit.load(path).record for path in (run, Path(out))]
        assert records[0] is not None and records[1] is not None
        assert records[0].model == records[1].model
        assert read_run(Path(out)).fields["model"] == NAME


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_model_and_prompts(
    subcircuit: Run, model: str, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "mine"))
    search = ("--task", many, "--method", "eap", "--scope", "block", "--edges", 6, "--metric", "logit_difference")
    assert subcircuit("discover", "--model", folder, *search, "--out", "runs/mine").code == 0
    (tmp_path / "runs" / "mine" / "checksums.json").unlink()
    # beside the test's own folder other tests have the same prompts
    elsewhere = tmp_path / "far" / "away"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    done = subcircuit("resume", tmp_path / "runs" / "mine", "--json")
    assert done.code == 0, done.err
    (tmp_path / "runs" / "mine" / "checksums.json").unlink()
    shutil.rmtree(folder)
    many.write_text(many.read_text() + "\n")
    refused = subcircuit("resume", tmp_path / "runs" / "mine")
    assert (refused.code, "give --model PATH" in refused.err) == (2, True)
    refused = subcircuit("resume", tmp_path / "runs" / "mine", "--model", model)
    assert (refused.code, "was started with many.jsonl" in refused.err, "give --task PATH" in refused.err) == (2, True, True)


def test_models_are_told_apart_by_their_weights() -> None:
    model = load_model(NAME, device="cpu")
    from subcircuit import Eap, Scope, discover
    from subcircuit.tasks import induction

    task = induction(model, examples=2)
    record = discover(model, task, Eap(), metric="logit_difference", scope=Scope("block")).circuit.record
    assert record is not None
    edited = replace(model, weights=map_tensors(model.weights, lambda tensor: tensor * 1.01))
    assert edited.revision == model.revision
    assert is_same_model(record.model, load_model(NAME, device="cpu"))
    assert is_same_model(record.model, edited) is False
    # in another dtype by the digest of the files
    assert is_same_model(record.model, model.to(dtype=torch.float64))
    assert is_same_model(record.model, replace(model, revision=None).to(dtype=torch.float64)) is None
    # the same weights out of other files are the same model
    assert is_same_model(record.model, replace(model, revision="sha256:other"))


@pytest.fixture
def leak(subcircuit: Run, model: str, many: Path) -> Path:
    """A run on prompts from a file, and model and file near it."""
    shutil.copytree(model, many.parent / Path(model).name)
    options = (
        "--method",
        "eap-ig-inputs",
        "--edges",
        "40%",
        "--scope",
        "head",
        "--metric",
        "logit_difference",
        "--out",
        "runs/leak",
    )
    done = subcircuit("discover", "--model", Path(model).name, "--task", many.name, *options)
    assert done.code == 0, done.err
    return many.parent / "runs" / "leak"


@pytest.mark.slow
def test_prompts_from_a_file_are_found_again(
    subcircuit: Run, leak: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    right = evaluated(subcircuit, leak, "--metric", "kl_divergence", "--task", many).json
    for place in (tmp_path, tmp_path / "elsewhere"):
        monkeypatch.chdir(place)
        done = evaluated(subcircuit, leak, "--metric", "kl_divergence")
        assert done.code == 0, done.err
        assert done.json["faithfulness"] == right["faithfulness"]
        assert done.json["task"] == "many"
        assert subcircuit("explain", leak, "--top", 1).code == 0
    # a file of that name with other pairs is not taken, however near
    written(tmp_path / "elsewhere" / many.name, (30, 31), 1)
    assert evaluated(subcircuit, leak, "--metric", "kl_divergence").json["faithfulness"] == right["faithfulness"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", "explain", "zoom", "report", "remove", "keep"])
def test_prompts_that_are_not_here_are_asked_for(subcircuit: Run, leak: Path, many: Path, command: str) -> None:
    options = {
        "zoom": ("a1.h0", "--into", "qkv", "--threshold", 0.1, "--out", "new"),
        "remove": ("--out", "new"),
        "keep": ("--out", "new"),
    }
    away = many.rename(many.with_suffix(".away"))
    refused = subcircuit(command, leak, *options.get(command, ()))
    assert refused.code == 2
    assert (
        "was found on the prompts of many.jsonl, which is not near the run or the working directory: give --task PATH"
        in refused.err
    )
    many.write_text(away.read_text().replace("w5", "w7"))
    refused = subcircuit(command, leak, *options.get(command, ()))
    assert (refused.code, "many.jsonl has other content now: give --task PATH" in refused.err) == (2, True)
    assert not Path("new").exists()


@pytest.mark.slow
def test_prompts_made_in_python_are_asked_for(subcircuit: Run, leak: Path) -> None:
    circuit = Circuit.load(leak)
    assert circuit.record is not None
    task = circuit.record.task.model_copy(update={"name": "mine", "parameters": {}})
    replace(circuit, record=circuit.record.model_copy(update={"task": task})).save("bare")
    refused = subcircuit("evaluate", "bare")
    assert (refused.code, "prompts that were made in Python (task mine)" in refused.err) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["remove", "keep"])
def test_a_task_of_few_pairs_is_edited_without_a_count_that_nobody_asked_for(
    subcircuit: Run, leak: Path, many: Path, command: str
) -> None:
    done = subcircuit(command, leak, "--out", "edited", "--json", *(("--relearn", 0) if command == "remove" else ()))
    assert "of the requested" not in done.err
    # a random model may not do the task, or have parts that are not enough: both are said of the pairs that were not set apart, or
    # of the four that judge
    assert (
        done.code == 0
        or " on 4 prompts" in done.err
        or " on 8 prompts" in done.err
        or "every head and every MLP" in done.err
        or "target" in done.err
    )
    one = written(many.parent / "one.jsonl", (10,), 12)
    refused = subcircuit(command, leak, "--task", one, "--out", "never")
    assert (refused.code, "one.jsonl has 1 pair of prompts" in refused.err) == (2, True)


@pytest.mark.slow
def test_a_sweep_on_few_pairs_takes_half_of_them_and_judges_by_the_test_prompts(subcircuit: Run, model: str, many: Path) -> None:
    done = subcircuit(
        "sweep", "-m", model, "-t", many, "--methods", "random", "--scope", "block", "--metric", "kl_divergence", "--json"
    )
    assert done.code == 0, done.err
    assert (done.json["found_on"]["pairs"], done.json["judged_on"]["pairs"]) == (6, 4)


def test_only_names_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "secret.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path / "run")
    assert list(nearby("secret.jsonl", Path("."))) == [tmp_path / "secret.jsonl"]
    for name in ("../secret.jsonl", str(tmp_path / "secret.jsonl"), "", ".", "..", "~", "a\0b", "x" * 300):
        assert list(nearby(name, tmp_path)) == [], name


def test_a_path_is_a_place_even_with_the_name_of_a_built_in_model(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    digests = {load_model(source, device="cpu").weights_digest for source in (Path(f"./{NAME}"), f"./{NAME}", str(own))}
    assert len(digests) == 1
    assert load_model(NAME, device="cpu").weights_digest not in digests
    assert json.loads((own / "config.json").read_text())["model_type"] == "gpt2"
