"""``validate`` from end to end, on planted models and a tiny one of GPT-2's shape."""

import csv
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from subcircuit.engine import Resample
from subcircuit.errors import SubcircuitError
from subcircuit.report import Validations
from subcircuit.truth import cases, known_cases, planted_case, published_names
from tests.cli.conftest import Output
from tests.tasks.conftest import VOCABULARY, tokenizer_of

Run = Callable[..., Output]

KEYS = {"case", "method", "ablation", "metric", "auc_edges", "auc_nodes", "seconds", "true_edges"}


@pytest.mark.slow
def test_one_search(subcircuit: Run) -> None:
    done = subcircuit("validate", "inhibition", "--method", "exact", "--ablation", "zero", "--json")
    assert done.code == 0, done.err
    content = done.json
    assert content.keys() >= KEYS | {"precision", "recall", "f1", "average_precision", "best_threshold", "mistakes"}
    assert (content["case"], content["method"], content["ablation"]) == ("inhibition", "exact", "zero")
    assert content["metric"] == "squared_error"
    assert (content["auc_edges"], content["auc_nodes"], content["true_edges"]) == (1, 1, 11)
    folder = Path(content["out"])
    assert folder == Path("runs/validate-inhibition-1")
    kept = ["checksums.json", "journal.sqlite", "points.csv", "roc.png", "roc.svg", "run.json"]
    names = [*kept, "validation.csv", "validation.json", "validation.md"]
    assert sorted(file.name for file in folder.iterdir() if file.name != ".lock") == names
    assert json.loads((folder / "validation.json").read_text()) == {k: v for k, v in content.items() if k != "out"}
    points = read_csv(folder / "points.csv")
    best = [p for p in points if p["part"] == "edges" and float(p["threshold"]) == content["best_threshold"]]
    assert [(int(p["found"]), float(p["recall"])) for p in best] == [(11, 1.0)]


@pytest.mark.slow
def test_methods_side_by_side(subcircuit: Run) -> None:
    done = subcircuit(
        "validate", "or-gate", "--method", "acdc,random,eap", "--thresholds", "0.01,0.1", "--seed", "3", "--out", "x"
    )
    assert done.code == 0, done.err
    for words in ("5; those that stand in for each other do not count", "acdc", "random", "edge AUC", "written   x"):
        assert words in done.out
    rows = read_csv(Path("x/validation.csv"))
    assert [row["method"] for row in rows] == ["acdc", "random", "eap"]
    assert [row["note"] for row in rows][:2] == ["", ""]
    assert rows[2]["note"].startswith("squared_error is a distance from the model's own logits")
    assert re.search(r"^eap +no gradient +–", done.out, re.MULTILINE)
    assert "not run: eap: squared_error is a distance" in done.err
    assert "| or-gate† | 1.00 |" in Path("x/validation.md").read_text()


@pytest.mark.slow
def test_directions_and_what_is_missed(subcircuit: Run) -> None:
    common = ("validate", "and-gate", "--method", "acdc", "--method", "exact,random", "--thresholds", "0.1", "--direction")
    done = subcircuit(*common, "denoising", "--json")
    assert done.code == 0, done.err
    restored, scores, drawn = done.json["results"]
    assert [one["direction"] for one in (restored, scores, drawn)] == ["denoising", "denoising", None]
    # of two edges that are needed together the greedy search restores the first
    assert (restored["missed"], restored["wrong"]) == (["a0.h1->m0", "embed->a0.h1<v>"], [])
    both = subcircuit("validate", "and-gate", "--thresholds", "0.1", "--direction", "both", "--json").json
    assert (both["direction"], both["missed"], both["wrong"], both["f1"]) == ("both", [], [], 1)
    shown = subcircuit("validate", "and-gate", "--thresholds", "0.1", "--direction", "denoising")
    assert "acdc, denoising" in shown.out and "a0.h1->m0, embed->a0.h1<v>" in shown.out


@pytest.mark.slow
def test_the_circuit_is_described(subcircuit: Run) -> None:
    done = subcircuit("validate", "and-gate", "--metric", "kl_divergence", "--thresholds", "1e-4")
    assert done.code == 0, done.err
    for words in (
        "and-gate · resample ablation · kl_divergence",
        "edge AUC",
        "best circuit by F1",
        "5 edges at threshold",
        "mistakes",
    ):
        assert words in done.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("inductoin",), "Did you mean 'induction'"),
        (("induction", "--method", "acdc2"), "Did you mean 'acdc'"),
        (("induction", "--ablation", "mean"), "not under mean"),
        (("induction", "--ablation", "nil"), "unknown ablation"),
        (("induction", "--thresholds", "low"), "numbers"),
        (("induction", "--direction", "denoising", "--ablation", "zero"), "zero ablation has no corrupted run"),
        (("induction", "--direction", "both", "--method", "eap"), "is an option of acdc and exact, not of"),
        (("induction", "--direction", "up"), "'noising', 'denoising' or 'both'"),
        (("induction", "--by", "size"), "signed"),
        (
            ("induction", "--method", "eap"),
            "Use metric logit_difference, or a method that does not need this gradient: eap-ig-inputs",
        ),
        (("and-gate", "--metric", "logit_difference"), "no wrong answer"),
        (("induction", "--method", "clean-corrupted", "--ablation", "zero"), "which only resample ablation uses"),
        # a published circuit, asked for by name, whose model is nowhere
        (("ioi",), "unknown model 'gpt2'"),
        (("ioi", "--model", "./nowhere"), "nowhere"),
    ],
)
def test_mistakes(subcircuit: Run, arguments: tuple[str, ...], words: str) -> None:
    refused = subcircuit("validate", *arguments)
    assert (refused.code, refused.out) == (2, "")
    assert words in refused.err
    assert "Traceback" not in refused.err
    assert not Path("runs").exists()


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two planted cases and a published one in the place of all."""
    everything = known_cases()
    chosen = {name: everything[name] for name in ("or-gate", "negative", "greater-than")}
    monkeypatch.setattr("subcircuit.truth.known_cases", lambda setting: chosen)


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_all_goes_on_where_something_cannot_be_had(subcircuit: Run) -> None:
    done = subcircuit("validate", "all", "--method", "exact,clean-corrupted,eap", "--out", "table")
    assert done.code == 0, done.err
    told = [line for line in done.err.splitlines() if line.startswith("not run")]
    assert len(told) == 1
    assert told[0].startswith("not run: greater-than: unknown model 'gpt2'.")
    assert {file.name for file in Path("table").iterdir()} >= {"run.json", "table.png", "table.svg", "validation.md"}
    rows = {(r["case"], r["method"], r["ablation"]): r for r in read_csv(Path("table/validation.csv"))}
    assert len(rows) == 3 * 3 * 2
    assert rows["negative", "exact", "zero"]["auc_edges"] == "1.0"
    assert rows["negative", "clean-corrupted", "resample"]["auc_edges"] == "1.0"
    assert rows["negative", "clean-corrupted", "zero"]["auc_edges"] == ""
    assert "which only resample ablation uses" in rows["negative", "clean-corrupted", "zero"]["note"]
    assert "gpt2" in rows["greater-than", "exact", "zero"]["note"]
    drawn = Path("table/table.svg").read_text()
    assert "not run: greater-than" in drawn
    assert ">or-gate†<" in drawn
    assert ">greater-than<" not in drawn
    table = Path("table/validation.md").read_text()
    for line in (
        "| case | exact | clean-corrupted | eap |",
        "| negative | 1.00 | – | no gradient |",
        "| greater-than | – | – | – |",
    ):
        assert line in table
    assert "- greater-than: unknown model" in table
    assert "- clean-corrupted: clean-corrupted takes" in table
    for words in ("clean-co", "exact", "mean AUC over the cases"):
        assert words in done.out


@pytest.mark.usefixtures("few")
def test_all_needs_something_that_runs(subcircuit: Run) -> None:
    refused = subcircuit("validate", "all", "--ablation", "mean", "--method", "random")
    assert (refused.code, refused.out) == (2, "")
    assert "no search could run" in refused.err
    assert not Path("runs").exists()


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with random weights in GPT-2's shape, and a tokenizer that knows the words of the built-in tasks."""
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    tokenizer = tokenizer_of(VOCABULARY)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=24, n_layer=12, n_head=12, bos_token_id=0, eos_token_id=1
    )
    GPT2LMHeadModel(sizes).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_a_published_circuit_is_validated_where_its_model_is(subcircuit: Run, gpt2: str) -> None:
    # on these prompts its random weights happen to favour the right pronoun
    command = ("validate", "gendered-pronoun", "--model", gpt2, "--examples", 2, "--method", "eap", "--json", "--seed", 4)
    done = subcircuit(*command)
    assert done.code == 0, done.err
    result = done.json
    assert 0 < result["auc_edges"] < 1
    assert (result["metric"], result["true_edges"]) == ("logit_difference", 26)
    refused = subcircuit("validate", "docstring", "--model", gpt2)
    assert refused.code == 2
    assert "found in attn-only-4l" in refused.err


def test_what_can_be_validated() -> None:
    assert [*known_cases()] == [*cases.CASES, "docstring", "gendered-pronoun", "greater-than", "ioi"]
    assert published_names() == ("docstring", "gendered-pronoun", "greater-than", "ioi")


@pytest.mark.slow
def test_tables_of_one_search_are_drawn_too(tmp_path: Path) -> None:
    from subcircuit.evaluate import validate_all
    from subcircuit.report import write_validations
    from subcircuit.search import Exact

    made = partial(planted_case, "negative")
    found = Validations(tuple(validate_all({"negative": made}, [Resample()], [Exact()])))
    folder = write_validations(found, tmp_path / "one")
    assert (folder / "roc.svg").read_text() == (write_validations(found, tmp_path / "two") / "roc.svg").read_text()
    with pytest.raises(SubcircuitError, match="not empty"):
        write_validations(found, folder)


@pytest.mark.slow
def test_no_circuit_of_a_model_that_does_not_do_the_task(subcircuit: Run, gpt2: str, tmp_path: Path) -> None:
    # without a last layer norm's gain all tokens are alike to it
    folder = tmp_path / "indifferent"
    model, tokenizer = GPT2LMHeadModel.from_pretrained(gpt2), tokenizer_of(VOCABULARY)
    torch.nn.init.zeros_(model.transformer.ln_f.weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    refused = subcircuit("validate", "gendered-pronoun", "--model", folder, "--examples", 2)
    assert refused.code == 2
    assert "indifferent does not do gendered_pronoun" in refused.err and "no better" in refused.err
    shown = subcircuit("tasks", "show", "gendered_pronoun", "--model", folder)
    assert "does not do gendered_pronoun" in shown.out.replace("\n", " ")


def test_a_circuit_of_another_model_is_refused(subcircuit: Run) -> None:
    refused = subcircuit("validate", "gendered-pronoun", "--model", "tiny-induction-ioi")
    assert refused.code == 2
    assert "was found in gpt2, 12 layers of 12 heads" in refused.err
