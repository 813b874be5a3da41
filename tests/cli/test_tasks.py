"""``tasks show`` on a tiny random model: the tokens, the answers, what the model makes of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from subcircuit.model import load_model
from subcircuit.tasks import competence, load_task
from tests.cli.conftest import Output

Run = Callable[..., Output]


def test_pairs_are_shown_token_by_token_with_what_the_model_makes_of_them(subcircuit: Run, model: str, prompts: Path) -> None:
    done = subcircuit("tasks", "show", prompts, "--model", model)
    assert done.code == 0, done.err
    for number in (10, 20, 30):
        assert f"clean      w3│ w{number}│ w5│ w6│" in done.out
        assert f"corrupted  w3│ w{number + 1}│ w5│ w6│" in done.out
        assert f"right      w{number}│" in done.out
        assert f"wrong      w{number + 1}│" in done.out
    loaded = load_model(model)
    for one in competence(loaded, load_task(str(prompts), loaded)):
        row = next(line for line in done.out.splitlines() if line.startswith(one.metric.name.replace("_", " ")))
        assert row.split()[-2:] == [f"{mean:.3f}" for mean in one.means]
    assert "loading" in done.err


@pytest.mark.slow
def test_the_suffix_of_a_prompt_file_is_known_in_any_case(subcircuit: Run, model: str, prompts: Path) -> None:
    loud = prompts.rename(prompts.with_suffix(".JSONL"))
    assert "mean of 6 pairs" in subcircuit("tasks", "show", loud, "--model", model).out
    done = subcircuit("discover", "--model", model, "--task", loud, "--method", "random", "--scope", "block", "--json")
    assert done.code == 0, done.err
    assert done.json["out"] == "runs/words-tiny-llama-1"


def test_json_has_every_pair(subcircuit: Run, model: str) -> None:
    done = subcircuit("tasks", "show", "induction", "-m", model, "--examples", 5, "--seed", 3, "--bos", "always", "--json")
    loaded = load_model(model)
    task = load_task("induction", loaded, examples=5, seed=3, bos="always")
    found = done.json
    assert (found["task"], found["examples"], found["metric"]) == ("induction", 5, "kl_divergence")
    assert (found["digest"], found["parameters"]) == (task.digest, task.parameters)
    assert [len(pair["answers"]) for pair in found["pairs"]] == [9] * 5
    for pair, ids in zip(found["pairs"], task.clean.to_lists(), strict=True):
        assert pair["clean"] == [loaded.tokenizer.decode([token]) for token in ids]  # pyright: ignore[reportOptionalMemberAccess]
        for answer in pair["answers"]:
            # the second copy goes on as the first did
            assert answer["right"] == [pair["clean"][answer["pos"] - 9]]
    for one in competence(loaded, task):
        told = found["measured"][one.metric.name]
        assert (told["clean"], told["corrupted"]) == pytest.approx(one.means)
        assert [pair["measured"][one.metric.name]["clean"] for pair in found["pairs"]] == pytest.approx(one.clean.tolist())


def test_three_pairs_and_three_places_are_shown(subcircuit: Run, model: str) -> None:
    done = subcircuit("tasks", "show", "induction", "--model", model, "--examples", 5)
    assert [line for line in done.out.splitlines() if line.startswith("pair")] == ["pair 1", "pair 2", "pair 3"]
    assert done.out.count("… 6 more places") == 3
    assert done.out.count("right at 10") == done.out.count("wrong at 12") == 3
    assert "mean of 5 pairs" in done.out


def test_prompts_from_outside_are_inert(subcircuit: Run, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    from tests.tiny_models import tiny_hf

    nasty = ("[red]", "\x1b[31m", "\u202e", "[/red]")
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(("<unk>", "a", "b", *nasty))}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tiny_hf("llama").save_pretrained(tmp_path / "nasty")
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path / "nasty")
    pair = {
        "clean": " ".join(("a", *nasty)),
        "corrupt": " ".join(("b", *nasty)),
        "answers": [" [red]"],
        "wrong_answers": [" \u202e"],
    }
    Path("nasty.jsonl").write_text(json.dumps(pair))
    done = subcircuit("tasks", "show", "nasty.jsonl", "--model", tmp_path / "nasty")
    assert done.code == 0, done.err
    mark = "\N{REPLACEMENT CHARACTER}"
    assert f"clean      a│ [red]│ {mark}[31m│ {mark}│ [/red]│" in done.out
    assert "\x1b" not in done.out and "\u202e" not in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("iou",), ["unknown task 'iou'", "'ioi'"]),
        (("ioi", "--bos", "allways"), ["unknown bos", "'always'"]),
        (("induction", "--examples", "0"), ["at least 1"]),
        (("sva",), ["0 of 30 nouns for people", ".jsonl"]),
        (("greater_than",), ["into digits"]),
        (("nowhere.jsonl",), ["nowhere.jsonl"]),
    ],
)
def test_mistakes_are_one_paragraph(subcircuit: Run, model: str, arguments: tuple[str, ...], words: list[str]) -> None:
    done = subcircuit("tasks", "show", *arguments, "--model", model)
    assert (done.code, done.out) == (2, "")
    error = done.err[done.err.index("error: ") :]
    assert len(error.splitlines()) == 1
    for word in words:
        assert word in error


def test_the_way_to_show_is_told_from_the_list(subcircuit: Run) -> None:
    assert "show" in subcircuit("tasks", "--help").out
    assert "subcircuit tasks show --help" in subcircuit("tasks", "show", "ioi").err
    assert subcircuit("tasks", "shwo").code == 2
