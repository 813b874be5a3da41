"""``evaluate``, ``compare`` and ``sweep`` from end to end on a tiny random model."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from subcircuit.cli.problem import Overrides, ready, to_look_at
from subcircuit.graph import Circuit
from subcircuit.tasks import load_split, split_again, split_record
from tests.cli.conftest import Output, written

pytestmark = pytest.mark.slow

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
    # of the eight pairs that the search left, three are to choose by
    assert (content["examples"], content["shared_with_search"]) == (5, 0)
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
    assert "has no constants for optimal ablation" in refused.err
    refused = subcircuit("discover", "-m", model, "-t", many, *method, "--set", "optimal.steps=5")
    assert refused.code == 2
    assert "goes with --ablation optimal, not with resample" in refused.err


def test_prompts_of_the_search_are_told_of(subcircuit: Run, model: str, prompts: Path) -> None:
    path = found(subcircuit, model, prompts, "--threshold", 0.05, "--split", "100/0/0")
    done = subcircuit("evaluate", path, "--model", model, "--task", prompts, "--random-circuits", 1, "--json")
    assert done.code == 0, done.err
    assert "6 of these 6 prompts were search prompts" in done.err
    assert done.json["shared_with_search"] == 6
    # edges that were never tried have no score: there is no ranking to judge
    assert done.json["cpr"] is None
    assert done.json["cmd"] is None


def test_as_many_prompts_are_measured_as_are_asked_for(subcircuit: Run, model: str, many: Path, tmp_path: Path) -> None:
    method = ("--method", "random", "--edges", 60, "--scope", "head")
    # of the twelve pairs the search takes all, or the first four, and three of the others are to choose by
    whole = found(subcircuit, model, many, *method, "--split", "100/0/0")
    part = found(subcircuit, model, many, *method, "--examples", 4)
    arguments = ("--model", model, "--task", many, "--random-circuits", 1, "--json")
    for path, options, measured, shared in (
        (whole, ("--examples", 3), 3, 3),
        (part, ("--examples", 3), 3, 0),
        (part, (), 5, 0),
        (whole, ("--seed", 5, "--examples", 3), 3, 3),
        (whole, (), 12, 12),
        (part, ("--seed", 5), 12, 4),
        (part, ("--examples", 100), 5, 0),
    ):
        done = subcircuit("evaluate", path, *arguments, *options)
        assert done.code == 0, done.err
        assert (done.json["examples"], done.json["shared_with_search"]) == (measured, shared), options
        assert ("only 5 of the requested" in done.err) == (100 in options)
        assert ("add pairs to the file" in done.err) == (shared > 0)
    refused = subcircuit("evaluate", part, *arguments, "--examples", 0)
    assert (refused.code, "--examples 0: expected at least 1" in refused.err) == (2, True)
    hundred = written(tmp_path / "hundred.jsonl", [*range(4, 50), *range(4, 50)][:46], 1)
    assert subcircuit("evaluate", part, "-m", model, "-t", hundred, "--json").json["examples"] == 46


def test_the_run_s_own_test_prompts_are_taken_whatever_lies_beside_them(subcircuit: Run, model: str, many: Path) -> None:
    """By digest, for a file and a built-in task; discover has said before what evaluate measures."""
    for task, options in (
        (many, ("--seed", 3)),
        ("induction", ("--examples", 3)),
        (many, ("--examples", 5, "--split", "40/20/40")),
    ):
        path = found(subcircuit, model, task, "--threshold", 0.01, "--scope", "head", *options)
        record = Circuit.load(path).record
        assert record is not None and record.task.split is not None and record.task.split.test is not None
        given = Overrides(model=model, task=str(task))
        _, problem, shared = ready(Path(path), given, 64, lambda _: None)
        assert (problem.task.digest, shared) == (record.task.split.test.digest, 0)
        again = split_again(record.task, task, problem.model)
        assert again is not None and split_record(again) == record.task.split
        done = subcircuit("evaluate", path, "--model", model, "--task", task, "--random-circuits", 1, "--json").json
        said = record.results["test"]
        assert (done["faithfulness"], done["faithfulness_interval"]) == (said["faithfulness"], said["interval"])
        assert (done["kl"], done["accuracy"], done["match"]) == (said["kl"], said["accuracy"], said["top1"])
        # to look at, as many of them as were searched with
        looked = to_look_at(Path(path), Circuit.load(path), given, lambda _: None).task
        count = min(record.task.split.search.examples, len(problem.task))
        assert looked.clean.to_lists() == problem.task.clean.to_lists()[:count]


def test_more_test_prompts_begin_with_the_run_s_own_and_leave_out_all_that_were_used(subcircuit: Run, model: str) -> None:
    path = found(subcircuit, model, "induction", "--method", "random", "--scope", "block", "--examples", 3)
    _, problem, _ = ready(Path(path), Overrides(model=model, examples=100), 64, lambda _: None)
    split = load_split("induction", problem.model, examples=3)
    prompts = problem.task.clean.to_lists()
    assert len(prompts) == 100
    assert split.test is not None and prompts[:64] == split.test.clean.to_lists()
    assert not any(prompt in prompts for name in ("search", "validation") for prompt in split.parts[name].clean.to_lists())


def test_another_file_than_the_run_s_is_told_of(subcircuit: Run, model: str, many: Path, tmp_path: Path) -> None:
    path = found(subcircuit, model, many, "--method", "random", "--edges", 60, "--scope", "head")
    (tmp_path / "else").mkdir()
    other = written(tmp_path / "else" / "many.jsonl", range(20, 32), 12)
    done = subcircuit("evaluate", path, "--model", model, "--task", other, "--random-circuits", 1, "--json")
    assert "does not give the test prompts of this run" in done.err
    assert done.json["examples"] == 12


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


def test_what_rounds_to_nothing_has_no_sign(subcircuit: Run, model: str, many: Path) -> None:
    """An empty circuit has faithfulness 0, also by a metric that is lower in the model."""
    path = found(subcircuit, model, many, "--method", "ifr", "--edges", 60, "--scope", "head", "--examples", 4)
    circuit = Circuit.load(path)
    replace(Circuit.empty(circuit.graph), record=circuit.record).save("empty")
    arguments = ("evaluate", "empty", "--model", model, "--task", many, "--random-circuits", 2)
    done = subcircuit(*arguments)
    assert done.code == 0, done.err
    assert "-0.000" not in done.out
    content = subcircuit(*arguments, "--json").json
    assert all(math.copysign(1, content[name]) == 1 for name in ("faithfulness", "random_faithfulness"))
    assert all(math.copysign(1, end) == 1 for name in ("", "random_") for end in content[f"{name}faithfulness_interval"])


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
    assert content["warnings"] == []
    assert "warning" not in shown.out
    circuit = Circuit.load(paths[0])
    assert circuit.record is not None
    model_record = circuit.record.model.model_copy(update={"weights": "0" * 64})
    replace(circuit, record=circuit.record.model_copy(update={"model": model_record})).save("elsewhere")
    warned = subcircuit("compare", paths[0], "elsewhere")
    assert "warning: circuit 2 was found in" in warned.out and "these are different models" in warned.out
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
    assert (content["found_on"]["pairs"], content["judged_on"]["pairs"]) == (4, 5)
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


def test_methods_are_judged_on_the_test_prompts_of_a_split(subcircuit: Run, model: str, many: Path) -> None:
    common = ("sweep", "--model", model, "--scope", "block", "--metric", "kl_divergence", "--methods", "random", "--json")
    for options, pairs in (
        (("--task", many), (6, 4)),
        (("--task", many, "--split", "50/0/50"), (6, 6)),
        (("--task", many, "--eval-examples", 3), (6, 3)),
        (("--task", "induction"), (32, 64)),
        (("--task", "induction", "--examples", 4, "--eval-examples", 70), (4, 70)),
    ):
        content = subcircuit(*common, *options).json
        assert (content["found_on"]["pairs"], content["judged_on"]["pairs"]) == pairs, options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--methods", ""), "at least one method"),
        (("--methods", "eap,eap"), "each only once"),
        (("--methods", "eap,none"), "none"),
        (("--methods", "eap", "--set", "steps=2"), "METHOD.NAME=VALUE"),
        (("--methods", "acdc", "--thresholds", "low"), "numbers"),
        (("--methods", "random,clean-corrupted", "--ablation", "zero"), "which only resample ablation uses"),
        (("--methods", "exact,eap"), "Use metric logit_difference, or a method that does not need this gradient"),
        (("--methods", "random", "--examples", 12), "0 different prompts besides the 12 search pairs"),
        (("--methods", "random", "--split", "100/0/0"), "has no test prompts, and a sweep needs them"),
        (("--methods", "random", "--split", "50/50"), "such as 50/20/30"),
        (("--methods", "random", "--eval-examples", 1), "at least 2 test prompts are needed"),
    ],
)
def test_mistakes_in_sweeps(subcircuit: Run, model: str, many: Path, arguments, words) -> None:
    refused = subcircuit("sweep", "--model", model, "--task", many, "--metric", "kl_divergence", "--examples", 4, *arguments)
    assert (refused.code, refused.out) == (2, "")
    assert words in refused.err
    assert not Path("runs").exists()
