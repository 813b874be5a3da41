"""``remove`` and ``keep`` from end to end on a tiny random model."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from subcircuit import load_edited, load_model, load_task
from subcircuit.cli.editing import material
from subcircuit.cli.problem import Overrides
from subcircuit.edit import Probe
from subcircuit.errors import CircuitFileError, ModelError, UnknownNameError
from subcircuit.graph import Circuit
from subcircuit.model import Tokens
from subcircuit.tasks import shared_prompts
from tests.cli.conftest import Output
from tests.tiny_models import tiny_hf

pytestmark = pytest.mark.slow

Run = Callable[..., Output]
_BRIEF = ("--eval-examples", 3, "--relearn", 2)


@pytest.fixture
def many(tmp_path: Path, model: str) -> Path:
    """Pairs of prompts whose right answers are those that the random model prefers."""
    loaded = load_model(model, device="cpu")
    file, lines = tmp_path / "many.jsonl", []
    with torch.no_grad():
        for i in range(10, 22):
            clean, corrupted = (f"w3 w{j} w5 w6" for j in (i, i + 12))
            assert loaded.tokenizer is not None
            ids = loaded.tokenizer([clean, corrupted], add_special_tokens=False)["input_ids"]
            before, after = loaded(Tokens.from_lists(ids))[:, -1, 2:]
            right, wrong = int((before - after).argmax()) + 2, int((after - before).argmax()) + 2
            pair = {"clean": clean, "corrupt": corrupted, "answers": [f" w{right}"], "wrong_answers": [f" w{wrong}"]}
            lines.append(json.dumps(pair))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def circuit(subcircuit: Run, model: str, many: Path) -> str:
    options = ("--method", "eap-ig-inputs", "--edges", "40%", "--scope", "head", "--metric", "logit_difference")
    done = subcircuit("discover", "--model", model, "--task", many, "--examples", 6, "--json", *options)
    assert done.code == 0, done.err
    return done.json["out"]


@pytest.fixture
def arguments(model: str, many: Path, circuit: str) -> tuple[object, ...]:
    return (circuit, "--model", model, "--task", many, "--examples", 6)


def test_a_capability_is_removed_and_the_checkpoint_loads(
    subcircuit: Run, arguments: tuple[object, ...], model: str, many: Path
) -> None:
    done = subcircuit("remove", *arguments, "--out", "edited", "--target", 0.3, "--json", *_BRIEF)
    content = done.json
    assert content["removed"]
    # reached on the prompts of the search, and missed on others, which alone count
    assert content["path"][-1]["target"] <= 0.3 < content["target"]["left"]
    assert (done.code, content["target_reached"]) == (1, False)
    assert "the target is missed" in content["warnings"][0]
    assert content["warnings"][0] in done.err
    assert content["side_effects"]["kl_text"] > 0
    back = content["relearning"]
    assert [step for step, _ in back["edited"]] == [step for step, _ in back["random"]] == [0, 1, 2]
    assert back["untouched"]["curve"][0] == [0, pytest.approx(1.0)]
    assert back["untouched"]["curve"][-1][1] <= 0.9
    assert back["random_nodes"] > 0
    assert {"config.json", "model.safetensors", "tokenizer.json", "edit.json", "edit.csv", "tradeoff.csv", "edit.png"} <= {
        file.name for file in Path("edited").iterdir()
    }
    # what the report says is so of the file
    whole, edited = load_model(model, device="cpu"), load_model("edited", device="cpu")
    judged = Probe.of(whole, load_task(many, whole)[6:9], "logit_difference")
    assert content["target"]["before"] == pytest.approx(judged.whole, rel=1e-4)
    with torch.no_grad():
        assert content["target"]["left"] == pytest.approx(float(judged.share(edited.stream)), abs=1e-3)
        theirs = AutoModelForCausalLM.from_pretrained("edited", attn_implementation="eager")
        ids = AutoTokenizer.from_pretrained("edited")(["w3 w10 w5 w6"], return_tensors="pt", add_special_tokens=False)[
            "input_ids"
        ]
        torch.testing.assert_close(theirs(ids).logits, edited(Tokens(ids, torch.tensor([4]))), atol=1e-3, rtol=1e-3)


def test_an_edit_is_judged_by_the_run_s_own_test_prompts_and_made_with_others(
    subcircuit: Run, circuit: str, model: str, many: Path
) -> None:
    record = Circuit.load(Path(circuit)).record
    assert record is not None and record.task.split is not None and record.task.split.test is not None
    for given, judging, found in ((None, 4, 8), (3, 3, 8)):
        drawn = material(Path(circuit), Overrides(model=model, task=str(many)), (), given, None, lambda _: None)
        others = drawn.held_out.target.task
        # of twelve pairs the search took six, and two of the others were kept to choose by
        assert (len(others), len(drawn.found), shared_prompts(others, drawn.found)) == (judging, found, 0)
        if given is None:
            assert others.digest == record.task.split.test.digest
    # a run that set nothing apart, and prompts of another seed, are divided anew
    plain = replace(
        Circuit.load(Path(circuit)), record=record.model_copy(update={"task": record.task.model_copy(update={"split": None})})
    )
    plain.save("plain")
    drawn = material(Path("plain"), Overrides(model=model, task=str(many)), (), None, None, lambda _: None)
    assert (len(drawn.held_out.target.task), len(drawn.found)) == (6, 6)


def test_the_table_and_the_steps_are_shown(subcircuit: Run, arguments: tuple[object, ...], many: Path) -> None:
    done = subcircuit("remove", *arguments, "--out", "edited", "--target", 0.5, "--retain", many, *_BRIEF)
    # to remove a task and to retain it cannot both be had, and neither is
    assert done.code == 1, done.err
    assert "the target is missed" in done.err
    assert "less than the floor of 90.0%" in done.err
    assert "whole model" in done.err
    # the model reads its token for unknown words there
    assert "warning: 'The' and perhaps more words of the text are not in the vocabulary" in done.err
    for words in ("many", "removed", "retained", "perplexity", "unrelated prompts", "relearning", "original model", "edit.png"):
        assert words in done.out


def test_edges_are_cut_behind_a_wrapper(
    subcircuit: Run, arguments: tuple[object, ...], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subcircuit("remove", *arguments, "--out", "cut", "--level", "edge", "--target", 0.3, "--json", *_BRIEF)
    assert done.code == int(done.json["target"]["left"] > 0.3), done.err
    assert done.json["target_reached"] == (not done.code)
    assert done.json["relearning"] is None
    assert "cannot be fine-tuned" in done.err
    # its model is found again near it, and nowhere else
    shutil.copytree(model, "tiny-llama")
    assert load_edited("cut", device="cpu").model.revision == load_model(model, device="cpu").revision
    shutil.copytree("cut", "far/from/here/cut")
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir("far/from/here")
        with pytest.raises(UnknownNameError, match="tiny-llama"):
            load_edited("cut")
    wrapper = load_edited("cut", model, device="cpu")
    assert set(done.json["removed"]).isdisjoint(wrapper.circuit.names)
    assert len(done.json["removed"]) + wrapper.circuit.n_edges == wrapper.circuit.graph.n_edges
    with pytest.raises(ModelError, match="another config"):
        load_edited("cut", load_model(tiny_hf("gpt2"), device="cpu"))
    with pytest.raises(ModelError, match="with other weights"):
        load_edited("cut", load_model(tiny_hf("llama", seed=1), device="cpu"))
    with pytest.raises(CircuitFileError, match="load_model"):
        load_edited(model)
    Path("cut/edited.json").write_text('{"format": 1}')
    with pytest.raises(CircuitFileError, match="model: Field required"):
        load_edited("cut", model)


def test_a_step_size_that_moves_nothing_is_told_of(subcircuit: Run, arguments: tuple[object, ...]) -> None:
    done = subcircuit(
        "remove", *arguments, "--out", "edited", "--target", 0.9, "--learning-rate", "1e-9", "--eval-examples", 3, "--json"
    )
    assert done.code == 0, done.err
    (warning,) = (one for one in done.json["warnings"] if "relearning" in one)
    assert "inconclusive" in warning
    assert "--learning-rate" in warning


def test_only_the_circuit_is_kept(subcircuit: Run, arguments: tuple[object, ...]) -> None:
    for level in ("node", "edge"):
        done = subcircuit("keep", *arguments, "--out", level, "--level", level, "--eval-examples", 3, "--json")
        if done.code == 2:
            assert "every head and every MLP" in done.err
            continue
        assert done.code == 0, done.err
        assert (done.json["command"], done.json["level"], done.json["path"]) == ("keep", level, [])
        assert (Path(level) / "edit.png").is_file()


def test_mistakes_leave_nothing_behind(
    subcircuit: Run, arguments: tuple[object, ...], model: str, many: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    other = tmp_path / "other"
    tiny_hf("llama", rms_norm_eps=1e-3).save_pretrained(other)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (other / name).write_bytes((Path(model) / name).read_bytes())
    before = sorted(path.name for path in tmp_path.iterdir())
    for wrong, told in (
        (("--out", "taken"), "not empty"),
        (("--out", "new", "--retain", "ioy"), "Did you mean 'ioi'"),
        (("--out", "new", "--level", "nodes"), "Did you mean 'node'"),
        (("--out", "new", "--ablation", "resample"), "corrupted prompt"),
        (("--out", "new", "--target", "2"), "target is 2"),
        (("--out", "new", "--text", "nowhere.txt"), "nowhere.txt"),
        (("--out", "new", "--metric", "kl_divergence"), "how much of a capability"),
        (("--out", "new", "--model", str(other)), "digest"),
    ):
        done = subcircuit("remove", *arguments, *wrong, "--eval-examples", 3)
        assert done.code == 2, (wrong, done.err)
        assert told in done.err, (wrong, done.err)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "taken" / "file").read_text() == "mine"
