"""``evaluate``, ``compare`` and ``sweep`` from end to end on a tiny random model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from subcircuit.graph import Circuit
from tests.cli.conftest import Output, written

Run = Callable[..., Output]


def found(subcircuit: Run, model: str, task: Path | str, *options: object) -> str:
    done = subcircuit("discover", "--model", model, "--task", task, "--metric", "kl_divergence", "--json", *options)
    assert done.code == 0, done.err
    return done.json["out"]


def test_a_circuit_is_evaluated_on_other_prompts(subcircuit: Run, model: str, many: Path) -> None:
    method = ("--method", "eap-ig-inputs", "--edges", 60, "--scope", "head", "--examples", 4)
    path = found(subcircuit, model, many, *method)
    arguments = ("evaluate", path, "--model", model, "--task", many, "--random-circuits", 3)
    done = subcircuit(*arguments, "--json")
    assert done.code == 0, done.err
    content = done.json
    assert (content["examples"], content["shared_with_search"]) == (8, 0)
    for key in ("faithfulness", "kl", "accuracy", "completeness", "random_faithfulness", "cpr", "cmd"):
        assert isinstance(content[key], float), key
    low, high = content["random_faithfulness_interval"]
    assert low <= content["random_faithfulness"] <= high
    shown = subcircuit(*arguments)
    assert shown.code == 0
    for words in (
        "faithfulness",
        f"{content['faithfulness']:.3f}",
        "completeness",
        "random circuits",
        "CMD",
        "none of them used",
    ):
        assert words in shown.out


def test_learned_constants_go_with_the_circuit(subcircuit: Run, model: str, many: Path) -> None:
    method = ("--method", "eap-ig-inputs", "--edges", 60, "--scope", "head", "--examples", 4)
    path = found(subcircuit, model, many, *method, "--ablation", "optimal", "--set", "optimal.steps=5")
    circuit = Circuit.load(path)
    assert circuit.record is not None and circuit.constants is not None
    assert (circuit.record.ablation, circuit.record.method.parameters["optimal"]["steps"]) == ("optimal", 5)
    means = found(subcircuit, model, many, *method, "--ablation", "mean")
    arguments = ("--model", model, "--task", many, "--random-circuits", 1, "--json")
    done = subcircuit("evaluate", path, *arguments)
    assert done.code == 0, done.err
    assert done.json["ablation"] == "optimal"
    refused = subcircuit("evaluate", means, *arguments, "--ablation", "optimal")
    assert refused.code == 2
    assert "brings no constants" in refused.err
    refused = subcircuit("discover", "-m", model, "-t", many, *method, "--set", "optimal.steps=5")
    assert refused.code == 2
    assert "goes with --ablation optimal, not with resample" in refused.err


def test_prompts_of_the_search_are_told_of(subcircuit: Run, model: str, prompts: Path) -> None:
    path = found(subcircuit, model, prompts, "--threshold", 0.05)
    done = subcircuit("evaluate", path, "--model", model, "--task", prompts, "--random-circuits", 1, "--json")
    assert done.code == 0, done.err
    assert "found with 3 of these 3 prompts" in done.err
    assert done.json["shared_with_search"] == 3
    # edges that were never tried have no score: there is no ranking to judge
    assert done.json["cpr"] is None
    assert done.json["cmd"] is None


def test_as_many_prompts_are_measured_as_are_asked_for(subcircuit: Run, model: str, many: Path, tmp_path: Path) -> None:
    method = ("--method", "random", "--edges", 60, "--scope", "head")
    # of the twelve pairs the search takes all, or four
    whole, part = found(subcircuit, model, many, *method), found(subcircuit, model, many, *method, "--examples", 4)
    arguments = ("--model", model, "--task", many, "--random-circuits", 1, "--json")
    for path, options, measured, shared in (
        (whole, ("--examples", 3), 3, 3),
        (part, ("--examples", 3), 3, 0),
        (part, (), 8, 0),
        (whole, ("--seed", 5, "--examples", 3), 3, 3),
        (whole, (), 12, 12),
        (part, ("--seed", 5), 12, 4),
        (part, ("--examples", 100), 8, 0),
    ):
        done = subcircuit("evaluate", path, *arguments, *options)
        assert done.code == 0, done.err
        assert (done.json["examples"], done.json["shared_with_search"]) == (measured, shared), options
        assert ("asked for, and there are 8" in done.err) == (100 in options)
        assert ("add pairs to the file" in done.err) == (shared > 0)
    refused = subcircuit("evaluate", part, *arguments, "--examples", 0)
    assert (refused.code, "--examples 0: expected at least 1" in refused.err) == (2, True)
    hundred = written(tmp_path / "hundred.jsonl", [*range(4, 50), *range(4, 50)][:46], 1)
    assert subcircuit("evaluate", part, "-m", model, "-t", hundred, "--json").json["examples"] == 46


def test_built_in_tasks_draw_other_prompts(subcircuit: Run, model: str) -> None:
    path = found(subcircuit, model, "induction", "--method", "random", "--scope", "block", "--examples", 3)
    done = subcircuit("evaluate", path, "--model", model, "--examples", 5, "--random-circuits", 1, "--json")
    assert done.code == 0, done.err
    assert (done.json["task"], done.json["examples"], done.json["shared_with_search"]) == ("induction", 5, 0)
    again = subcircuit("evaluate", path, "--model", model, "--examples", 3, "--seed", 0, "--random-circuits", 1, "--json")
    assert again.json["shared_with_search"] == 3
    assert "warning" in again.err


def test_mistakes_in_evaluation(subcircuit: Run, model: str, prompts: Path, tmp_path: Path) -> None:
    path = found(subcircuit, model, prompts, "--threshold", 0.001, "--scope", "head")
    Circuit.full(Circuit.load(path).graph).save("bare")
    same = tmp_path / "same.jsonl"
    # each prompt is the other's counterpart, with the same answers: on average they do not differ
    sides = [("w3 w20 w6", "w4 w20 w6"), ("w4 w20 w6", "w3 w20 w6")]
    pairs = [{"clean": a, "corrupt": b, "answers": [" w20"], "wrong_answers": [" w9"]} for a, b in sides]
    same.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    cases = [
        (("evaluate", "nowhere"), "there is no circuit here"),
        (("evaluate", "bare"), "give --model"),
        (("evaluate", "bare", "--model", model), "give --task"),
        (("evaluate", path, "--model", model, "--task", prompts, "--random-circuits", 0), "at least 1"),
        (("evaluate", path, "--model", model, "--task", prompts, "--by", "size"), "signed"),
        (("evaluate", path, "--model", model, "--task", same, "--metric", "logit_difference"), "faithfulness is undefined"),
    ]
    for arguments, words in cases:
        refused = subcircuit(*arguments)
        assert (refused.code, refused.out) == (2, ""), arguments
        assert words in refused.err


def test_circuits_are_compared(subcircuit: Run, model: str, prompts: Path) -> None:
    paths = [
        found(subcircuit, model, prompts, "--method", method, "--edges", "5%", "--scope", "head") for method in ("ifr", "random")
    ]
    content = subcircuit("compare", *paths, "--json").json
    left, right = (set(Circuit.load(path).names) for path in paths)
    (pair,) = content["pairs"]
    assert [c["edges"] for c in content["circuits"]] == [len(left), len(right)]
    assert (pair["shared"], pair["only_left"], pair["only_right"]) == (len(left & right), len(left - right), len(right - left))
    assert -1 <= pair["rank_correlation"] <= 1
    shown = subcircuit("compare", *paths, paths[0])
    assert shown.code == 0
    assert "1 and 3" in shown.out
    assert "1.000" in shown.out
    other = found(subcircuit, model, prompts, "--method", "random", "--scope", "block")
    refused = subcircuit("compare", paths[0], other)
    assert refused.code == 2
    assert "different graphs" in refused.err
    assert subcircuit("compare", other).code == 2


def test_methods_are_swept(subcircuit: Run, model: str, many: Path) -> None:
    common = ("sweep", "--model", model, "--task", many, "--scope", "head", "--metric", "kl_divergence", "--examples", 4)
    done = subcircuit(*common, "--methods", "eap-ig-inputs,random,acdc", "--set", "eap-ig-inputs.steps=2", "--json")
    assert done.code == 0, done.err
    content = done.json
    assert [method["method"] for method in content["methods"]] == ["eap-ig-inputs", "random", "acdc"]
    assert (content["found_on"]["pairs"], content["judged_on"]["pairs"]) == (4, 8)
    assert content["settings"]["eap-ig-inputs"]["steps"] == 2
    folder = Path(content["out"])
    assert sorted(file.name for file in folder.iterdir() if not file.name.startswith(".")) == [
        "checksums.json",
        "journal.sqlite",
        "methods.csv",
        "points.csv",
        "run.json",
        "sweep.json",
        "sweep.png",
        "sweep.svg",
    ]
    shown = subcircuit(*common, "--methods", "ifr,random", "--out", "second")
    assert shown.code == 0, shown.err
    for words in ("method", "CMD", "ifr", "random", "second/sweep.png"):
        assert words in shown.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--methods", ""), "at least one method"),
        (("--methods", "eap,eap"), "each once"),
        (("--methods", "eap,none"), "none"),
        (("--methods", "eap", "--set", "steps=2"), "METHOD.NAME=VALUE"),
        (("--methods", "acdc", "--thresholds", "low"), "numbers"),
        (("--methods", "random,clean-corrupted", "--ablation", "zero"), "only the ablation resample"),
        (("--methods", "exact,eap"), "Use metric logit_difference, or a method that looks further"),
        (("--methods", "random", "--examples", 12), "all 12 prompts"),
    ],
)
def test_mistakes_in_sweeps(subcircuit: Run, model: str, many: Path, arguments, words) -> None:
    refused = subcircuit("sweep", "--model", model, "--task", many, "--metric", "kl_divergence", "--examples", 4, *arguments)
    assert (refused.code, refused.out) == (2, "")
    assert words in refused.err
    assert not Path("runs").exists()
