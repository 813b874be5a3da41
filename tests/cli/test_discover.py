"""``discover`` and ``show`` from end to end on a tiny random model, and every mistake a user can make."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from subcircuit.graph import Circuit
from tests.cli.conftest import Output

Run = Callable[..., Output]

KEYS = {
    "edges_total",
    "edges_kept",
    "trials",
    "borderline",
    "seconds",
    "forward_seconds",
    "forward_equivalents",
    "metric",
    "metric_model",
    "metric_circuit",
    "metric_corrupted",
    "kl",
    "logit_difference_model",
    "logit_difference_circuit",
    "logit_difference_corrupted",
    "edges_selected",
    "faithfulness",
    "metric_before",
    "scores",
    "warnings",
    "model",
    "task",
    "method",
    "threshold",
    "ablation",
    "scope",
    "out",
    "pictures",
}
FILES = [
    ".lock",
    "checksums.json",
    "circuit.json",
    "circuit.png",
    "circuit.svg",
    "journal.sqlite",
    "run.json",
    "scores.safetensors",
]
REFINED = sorted([*FILES, "path.csv", "path.json", "path.png", "path.svg"])


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.slow
def test_a_search_writes_a_circuit_and_its_pictures(subcircuit: Run, model: str, prompts: Path) -> None:
    done = subcircuit("discover", "--model", model, "--task", prompts, "--threshold", 0.05, "--json", "--out", "found")
    assert done.code == 0, done.err
    assert done.json.keys() >= KEYS
    assert files(Path("found")) == FILES
    circuit = Circuit.load("found")
    assert (done.json["edges_kept"], done.json["edges_total"]) == (circuit.n_edges, circuit.graph.n_edges)
    assert (done.json["threshold"], done.json["out"], done.json["examples"]) == (0.05, "found", 3)
    assert "loading" in done.err


@pytest.mark.slow
def test_the_summary_is_shown_and_shown_again(subcircuit: Run, model: str, prompts: Path) -> None:
    found = subcircuit("discover", "--model", model, "--task", prompts, "--scope", "head")
    assert found.code == 0, found.err
    folder = Path("runs/words-tiny-llama-1")
    assert files(folder) == REFINED
    shown = subcircuit("show", folder)
    summary, _, steps = found.out.partition("\nnext ")
    assert shown == Output(0, summary, "")
    assert "subcircuit evaluate" in steps
    for words in ("edges kept", "KL(model ‖ circuit)", "logit difference", "trials", str(folder / "circuit.svg")):
        assert words in shown.out
    as_json = subcircuit("show", folder, "--json").json
    assert as_json.keys() >= KEYS
    assert as_json["scope"] == {
        "level": "head",
        "kv": "per_query_head",
        "split_embeddings": False,
        "overrides": [],
        "positions": "all",
    }


@pytest.mark.slow
def test_nodes_at_each_position(subcircuit: Run, model: str, prompts: Path) -> None:
    scope = ("--scope", "head, positions=each", "--method", "eap", "--metric", "logit_difference", "--edges", 12)
    done = subcircuit("discover", "-m", model, "-t", prompts, *scope, "--out", "found", "--json")
    assert done.code == 0, done.err
    circuit = Circuit.load("found")
    assert done.json["edges_total"] == circuit.graph.n_edges == 4 * circuit.graph.without_positions.n_edges
    assert {str(node).partition("@")[2] for node in circuit.nodes} <= {"0", "1", "2", "3"}
    measured = subcircuit("evaluate", "found", "--model", model, "--task", prompts, "--metric", "kl_divergence", "--json")
    assert measured.code == 0, measured.err
    assert "at each position" in subcircuit("show", "found").out
    refused = subcircuit("discover", "-m", model, "-t", prompts, "--scope", "head, positions=roles", "--out", "other")
    assert (refused.code, refused.out, Path("other").exists()) == (2, "", False)
    assert "declares no token roles" in refused.err


@pytest.mark.slow
def test_default_directories_are_counted_up(subcircuit: Run, model: str) -> None:
    arguments = ("discover", "--model", model, "--task", "induction", "--examples", 2, "--scope", "block", "--json")
    assert [subcircuit(*arguments).json["out"] for _ in range(2)] == [
        "runs/induction-tiny-llama-1",
        "runs/induction-tiny-llama-2",
    ]
    assert files(Path("runs")) == ["induction-tiny-llama-1", "induction-tiny-llama-2"]


@pytest.mark.slow
def test_the_method_s_options_reach_it(subcircuit: Run, model: str, prompts: Path) -> None:
    options = ("--no-whole-input", "--absolute", "--head-order", "ascending", "--speculation", 3, "--batch-size", 2)
    done = subcircuit(
        "discover", "-m", model, "-t", prompts, "--scope", "block", "--metric", "logit_difference", *options, "--json"
    )
    assert done.code == 0, done.err
    expected = {"whole_input": False, "absolute": True, "head_order": "ascending"}
    assert expected.items() <= done.json["parameters"].items()
    assert done.json["metric"] == "logit_difference"


@pytest.mark.slow
def test_progress_comes_as_plain_lines_where_there_is_no_terminal(subcircuit: Run, model: str, prompts: Path) -> None:
    done = subcircuit("discover", "--model", model, "--task", prompts, "--scope", "block", "--threshold", 0.05, "--json")
    assert "\x1b" not in done.err + done.out
    searched, measured = done.err.splitlines()[-2:]
    assert searched.startswith("acdc: 100% · ")
    assert f"edges kept {done.json['edges_kept']:,} · trials {done.json['trials']:,} · " in searched
    # model, circuit and empty circuit, on two test and three search prompts
    assert "15/15 runs" in measured


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--task": "iou"}, ["unknown task 'iou'", "'ioi'"]),
        ({"--method": "acdcd"}, ["unknown method", "'acdc'"]),
        ({"--metric": "kl_divergance"}, ["unknown metric", "'kl_divergence'"]),
        ({"--ablation": "mean-by-positon"}, ["unknown ablation", "'mean-by-position'"]),
        ({"--scope": "heads"}, ["unknown scope", "'head'"]),
        ({"--kv": "group"}, ["unknown kv", "'grouped'"]),
        ({"--bos": "allways"}, ["unknown bos", "'always'"]),
        ({"--dtype": "float33"}, ["unknown dtype", "'float32'"]),
        ({"--model": "smollm"}, ["unknown model", "'smollm2-135m'"]),
        ({"--model": "./nowhere"}, ["no file or directory"]),
        ({"--device": "abacus"}, ["abacus"]),
        ({"--revision": "main"}, ["revision"]),
        ({"--threshold": "nan"}, ["threshold"]),
        ({"--threshold": "-1"}, ["threshold"]),
        ({"--threshold": "small"}, ["--threshold", "number", "subcircuit discover --help"]),
        ({"--examples": "0"}, ["0"]),
        ({"--speculation": "0"}, ["speculation"]),
        ({"--batch-size": "0"}, ["batch"]),
        ({"--split-embeddings": None}, ["learned positions"]),
        ({"--treshold": "0.1"}, ["--threshold"]),
    ],
)
def test_mistakes_are_one_paragraph(
    subcircuit: Run, model: str, prompts: Path, changes: dict[str, str | None], words: list[str]
) -> None:
    options: dict[str, str | None] = {"--model": model, "--task": str(prompts), "--scope": "block"} | changes
    done = subcircuit("discover", *(word for option in options.items() for word in option if word is not None))
    assert (done.code, done.out) == (2, "")
    error = done.err[done.err.index("error: ") :]
    _, *pointer = error.splitlines()
    # a scope is written out below the sentence, with a mark where it is wrong
    assert not pointer or ("--scope" in changes and len(pointer) == 2 and pointer[1].strip() == "^")
    assert "Traceback" not in done.err
    for word in words:
        assert word in error
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_choice_that_the_types_forbid_is_a_mistake_like_others(model: str, prompts: Path) -> None:
    # in a process of its own: here, the type checks of the test run would be quicker
    command = "from subcircuit.cli.main import run; run()"
    arguments = ["discover", "--model", model, "--task", str(prompts), "--head-order", "descend"]
    done = subprocess.run([sys.executable, "-c", command, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'descending'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["words.jsonl", "no prompts"]),
        ('{"clean": "w3 w4"\n', ["words.jsonl:1", "not JSON"]),
        ('{"clean": "w3 w4", "corrupt": "w3 w5 w6", "answers": [" w7"]}\n', ["2 tokens", "3"]),
        ('{"clean": "w3 w4", "corrupt": "w3 w5", "answers": [" w7 w8"]}\n', ["w7 w8"]),
        ('{"clean": "w3 w4", "corrupt": "w3 w4", "answers": [" w7"]}\n', ["words.jsonl:1", "the same"]),
        ('{"clean": "' + "w3 " * 99 + '", "corrupt": "' + "w4 " * 99 + '", "answers": [" w7"]}\n', ["32"]),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(subcircuit: Run, model: str, prompts: Path, text: str, words: list[str]) -> None:
    prompts.write_text(text, encoding="utf-8")
    done = subcircuit("discover", "--model", model, "--task", prompts)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err


def test_a_directory_that_holds_something_is_left_alone(subcircuit: Run, model: str, prompts: Path) -> None:
    Path("taken").mkdir()
    Path("taken/thesis.tex").write_text("years of work")
    done = subcircuit("discover", "--model", "no-model-is-loaded", "--task", prompts, "--out", "taken")
    assert done.code == 2
    assert "not empty" in done.err
    assert Path("taken/thesis.tex").read_text() == "years of work"
    assert files(Path("taken")) == ["thesis.tex"]


@pytest.mark.slow
def test_an_empty_directory_is_filled(subcircuit: Run, model: str, prompts: Path) -> None:
    Path("empty").mkdir()
    assert subcircuit("discover", "--model", model, "--task", prompts, "--scope", "block", "--out", "empty").code == 0
    assert files(Path("empty")) == REFINED


def test_a_place_that_cannot_be_written_is_refused_before_the_search(subcircuit: Run, model: str, prompts: Path) -> None:
    Path("file").write_text("")
    for place in ("file", "file/below", "/proc/nowhere/below"):
        done = subcircuit("discover", "--model", "no-model-is-loaded", "--task", prompts, "--out", place)
        assert done.code == 2
        assert "cannot be written" in done.err or "not empty" in done.err


def test_ctrl_c_leaves_nothing_behind(subcircuit: Run, model: str, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("subcircuit.evaluate.discover_split", interrupted)
    done = subcircuit("discover", "--model", model, "--task", prompts, "--out", "new/run")
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-1] == "stopped; nothing was written"
    assert not Path("new/run").exists()


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_end_costs_nothing_that_was_worked_out(
    subcircuit: Run, model: str, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("subcircuit.report.save_picture", full)
        done = subcircuit("discover", "--model", model, "--task", prompts, "--scope", "block", "--out", "run")
    assert done.code == 2
    assert "No space left on device" in done.err
    assert "subcircuit resume run" in done.err
    assert subcircuit("resume", "run", "--model", model, "--task", prompts).code == 0
    assert files(Path("run")) == REFINED


def test_show_refuses_what_is_no_circuit(subcircuit: Run) -> None:
    Path("circuit.json").write_text(json.dumps({"format": 99}))
    for place, words in ((".", "newer"), ("nowhere", "there is no circuit here")):
        done = subcircuit("show", place)
        assert (done.code, done.out) == (2, "")
        assert words in done.err


@pytest.mark.slow
def test_scored_edges_are_selected(subcircuit: Run, model: str, prompts: Path) -> None:
    common = ("discover", "--model", model, "--task", prompts, "--metric", "kl_divergence", "--json")
    by_count = subcircuit(*common, "--method", "clean-corrupted", "--edges", 20, "--by", "signed")
    assert by_count.code == 0, by_count.err
    assert by_count.json["parameters"] == {"batch_size": None, "select": "top-n", "n": 20, "by": "signed"}
    assert by_count.json["trials"] is None
    by_share = subcircuit(*common, "--method", "random", "--edges", "10%", "--greedy", "--seed", 5).json
    assert by_share["parameters"] == {
        "seed": 5,
        "select": "greedy",
        "n": by_share["edges_total"] // 10,
        "by": "absolute",
    }
    by_score = subcircuit(*common, "--method", "eap-ig-inputs", "--threshold", 1e-3, "--set", "steps=2", "--out", "third").json
    assert (by_score["parameters"]["steps"], by_score["parameters"]["least"]) == (2, 1e-3)
    circuit = Circuit.load("third")
    assert circuit.scores is not None
    assert float(circuit.scores[circuit.kept].abs().min()) >= 1e-3
    shown = subcircuit("show", "third")
    assert "score at least 0.001 (absolute)" in shown.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--edges", 5), "selects the edges itself"),
        (("--method", "eap", "--edges", "ten"), "--edges ten"),
        (("--method", "eap", "--edges", "101%"), "--edges 101%"),
        (("--method", "eap-ig-inputs", "--edges", 10**9), "the number of edges is 1,000,000,000"),
        (("--method", "eap", "--edges", 5, "--threshold", 1), "choose"),
        (("--method", "eap", "--by", "size"), "absolute"),
        (("--method", "eap", "--set", "steps=3"), "has no setting 'steps'"),
        (("--method", "eap-ig-inputs", "--set", "steps"), "name=value"),
        (("--method", "eap-ig-inputs", "--set", "steps=few"), "steps of method eap-ig-inputs is 'few'"),
        (("--method", "eap-ig-inputs", "--set", "steps=0"), "steps"),
        (("--method", "clean-corrupted", "--ablation", "zero"), "which only resample ablation uses"),
        (("--method", "eap", "--metric", "accuracy"), "is a count"),
        (
            ("--method", "eap", "--metric", "kl_divergence"),
            "Use metric logit_difference, or a method that does not need this gradient",
        ),
        (("--method", "eapp"), "eap"),
    ],
)
def test_settings_that_do_not_fit_are_refused(subcircuit: Run, model: str, prompts: Path, arguments, words) -> None:
    refused = subcircuit("discover", "--model", model, "--task", prompts, *arguments)
    assert (refused.code, refused.out) == (2, "")
    assert words in refused.err
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_search_ends_with_commands_that_go_on(subcircuit: Run, model: str, prompts: Path) -> None:
    done = subcircuit("discover", "--model", model, "--task", prompts, "--scope", "head", "--out", "o u t")
    assert done.code == 0, done.err
    lines = [line.removeprefix("next").strip() for line in done.out.splitlines() if " subcircuit " in line]
    assert [line.split()[1] for line in lines] == ["evaluate", "explain", "view"]
    evaluating, explaining, _ = (shlex.split(line)[1:] for line in lines)
    assert subcircuit(*explaining).code == 0
    judged = subcircuit(*evaluating)
    assert judged.code == 0, judged.err
    assert "on 2 pairs of prompts" in judged.err


@pytest.mark.slow
def test_unseen_prompts_are_told_of_first(subcircuit: Run, model: str, many: Path) -> None:
    done = subcircuit("discover", "--model", model, "--task", many, "--scope", "head", "--out", "found")
    assert done.code == 0, done.err
    assert "held out: 4 test prompts, 2 validation prompts" in done.err
    lines = done.out.splitlines()
    unseen, search, metric = (
        next(number for number, line in enumerate(lines) if line.startswith(words))
        for words in ("on 4 unseen prompts  ", "on the 6 search prompts  ", "metric  ")
    )
    assert unseen < search < metric
    assert re.search(r"faithfulness -?\d+\.\d\d \(-?\d+\.\d\d to -?\d+\.\d\d\) · KL ", lines[unseen])
    content = subcircuit("show", "found", "--json").json
    for part in ("test", "search"):
        assert {"faithfulness", "interval", "kl", "accuracy", "top1", "why"} <= set(content[part])
    assert (content["test"]["examples"], content["search"]["examples"], content["examples"]) == (4, 6, 6)


@pytest.mark.slow
def test_all_prompts_are_searched_with_where_that_is_asked_for_and_loudly(subcircuit: Run, model: str, prompts: Path) -> None:
    done = subcircuit("discover", "-m", model, "-t", prompts, "--scope", "block", "--split", "100/0/0", "--out", "found")
    assert done.code == 0, done.err
    assert "warning: the split has no test prompts" in done.err
    assert "not measured: there are no test prompts" in done.out
    content = subcircuit("show", "found", "--json").json
    assert (content["test"], content["search"]["examples"]) == (None, 6)


@pytest.mark.slow
def test_a_split_is_carried_on(subcircuit: Run, model: str, many: Path) -> None:
    options = ("-m", model, "-t", many, "--scope", "head", "--split", "34/33/33", "--seed", 2, "--method", "acdc")
    assert subcircuit("discover", *options, "--out", "first").code == 0
    first = Circuit.load(Path("first")).record
    assert first is not None and first.task.split is not None
    assert [part and part.examples for part in (first.task.split.search, first.task.split.validation, first.task.split.test)] == [
        4,
        4,
        4,
    ]
    again = (
        ("discover", "--config", "first", "-m", model, "-t", many, "--out", "by-run"),
        ("discover", "--config", "first/circuit.json", "-m", model, "-t", many, "--out", "by-circuit"),
        ("resume", "first", "--model", model, "--task", many, "--fork", "forked", "--threshold", 0.2),
    )
    for command in again:
        done = subcircuit(*command)
        assert done.code == 0, done.err
        record = Circuit.load(Path(str(command[command.index("--out" if "--out" in command else "--fork") + 1]))).record
        assert record is not None and record.task == first.task
    node = next(str(node) for node in Circuit.load(Path("first")).nodes if str(node).startswith("a"))
    done = subcircuit("zoom", "first", node, "--into", "qkv", "--model", model, "--task", many, "--out", "inside", "--json")
    assert done.code == 0, done.err
    inside = Circuit.load(Path("inside")).record
    assert inside is not None and inside.task == first.task
    assert (done.json["test"]["examples"], done.json["search"]["examples"]) == (4, 4)


@pytest.mark.slow
def test_a_changed_file_is_not_resumed_even_if_the_search_prompts_stay(subcircuit: Run, model: str, many: Path) -> None:
    options = ("-m", model, "-t", many, "--scope", "block", "--examples", 4, "--out", "run")
    assert subcircuit("discover", *options).code == 0
    lines = many.read_text().splitlines()
    many.write_text("\n".join(lines[:11]) + "\n")
    refused = subcircuit("resume", "run", "--model", model, "--task", many)
    assert refused.code == 2
    assert "test prompts was" in refused.err or "validation prompts was" in refused.err
