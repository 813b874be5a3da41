"""Every command that a page shows is run, in the page's order, on fewer prompts and with a small random model for the real ones."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from subcircuit.cli.main import main
from subcircuit.model import Transformer, load_model
from subcircuit.model.load.builtin import SHIPPED
from subcircuit.tasks import Task, load_split, load_task
from tests.test_documentation import COMMANDS, ROOT

pytestmark = pytest.mark.model

PAGES = tuple(dict.fromkeys(page for page, _ in COMMANDS))
# what a reader has made on other pages
RUNS = ("runs/ioi", "runs/ioi-smollm2-135m-1")
# where it would take long, or machines that are not here
INSTEAD = {
    "all": "trained-induction",
    "tracr-reverse": "and-gate",
    "m17": "m2",
    "16": "1",
    "cuda:0=20,cuda:1=30,cpu": "cpu=1,cpu",
    "edge-pruning.steps=60": "edge-pruning.steps=2",
    "ugs.steps=60": "ugs.steps=2",
    "TASK": "ioi",
    "DIR": "runs/ioi",
}
LEFT_OUT = ("--ray", "auto")
FEWER = {
    "discover": ("--examples",),
    "estimate": ("--examples",),
    "evaluate": ("--examples",),
    "sweep": ("--examples",),
    "remove": ("--examples", "--eval-examples", "--relearn"),
}
MISTAKES = ("qkv, m1=neuro",)
PAIRS = [
    {"clean": "A cat and a", "corrupt": "A man and a", "answers": [" dog"], "wrong_answers": [" woman"]},
    {"clean": "A king and a", "corrupt": "A boy and a", "answers": [" queen"], "wrong_answers": [" girl"]},
    {"clean": "A son and a", "corrupt": "A bull and a", "answers": [" daughter"], "wrong_answers": [" cow"]},
]
TASKS = {"ioi": 48, "sva": 128, "capital_of": 64}
WIDTH = 64
SIZES: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": WIDTH,
    "head_dim": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Transformer]:
    """Small models that know the words of SmolLM2: one that has learned a few pairs of the tasks of the pages, and one of experts."""
    tokenizer = load_model("smollm2-135m", device="cpu").tokenizer
    assert tokenizer is not None
    torch.manual_seed(0)
    plain = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True))
    experts = MixtralForCausalLM(MixtralConfig(**SIZES, num_key_value_heads=2))
    found: dict[str, Transformer] = {}
    models: tuple[tuple[str, Any], ...] = (("plain", plain), ("MODEL", experts))
    for name, model in models:
        folder = tmp_path_factory.mktemp(name)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
        if name == "plain":
            untaught = load_model(folder, device="cpu")
            drawn = [load_task(task, untaught, examples=n) for task, n in TASKS.items()]
            teach(model, [*drawn, *load_split("sva", untaught, examples=8).parts.values()])
            model.save_pretrained(folder)
        found[name] = load_model(folder, device="cpu")
    return found


def teach(model: Any, tasks: list[Task]) -> None:
    """Right answers above wrong ones on clean prompts, beginning with a head that speaks against all words that were said."""
    head = model.model.layers[0].self_attn
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_()
        head.q_proj.weight[:WIDTH] = 0
        head.v_proj.weight[:WIDTH], head.o_proj.weight[:, :WIDTH] = torch.eye(WIDTH), -4 * torch.eye(WIDTH)
    optimiser = torch.optim.Adam(model.parameters(), 0.003)
    for _ in range(20):
        loss = torch.zeros(())
        for task in tasks:
            stream = task.answers.rows(model.model(task.clean.ids).last_hidden_state)
            ids = torch.stack([task.answers.correct[:, 0], task.answers.wrong[:, 0]])
            right, wrong = (model.lm_head.weight[ids] * stream).sum(-1)
            loss = loss + torch.nn.functional.softplus(2 + wrong - right).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@pytest.fixture
def shell(stand_ins: dict[str, Transformer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], int]:
    """A command in an empty directory, where the small models go by the names of all but those that come along."""
    resolve = import_module("subcircuit.model.load.resolve")
    really = resolve._from_name

    def from_name(source: str | Path, *given: object) -> Transformer:
        name = Path(source).name
        if name in SHIPPED:
            return really(source, *given)
        # what it stands in for has other files, by which a run would look for it
        return replace(stand_ins.get(name, stand_ins["plain"]), name=name, revision=None)

    monkeypatch.setattr(resolve, "_from_name", from_name)
    monkeypatch.setattr(import_module("subcircuit.viewer.serve"), "serve", lambda *given, **named: None)
    monkeypatch.chdir(tmp_path)
    return main


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page: str, shell: Callable[[list[str]], int], made: Path, tmp_path: Path) -> None:
    commands = [in_small(words) for at, words in COMMANDS if at == page]
    for run in RUNS:
        if ["--out", run] not in (words[at : at + 2] for words in commands for at in range(len(words))):
            if not (made / run).exists():
                search_before(shell, made / run)
            shutil.copytree(made / run, tmp_path / run)
    for name in {word for words in commands for word in words if word.endswith(".jsonl")}:
        (tmp_path / name).write_text(pairs_on(page))
    if any("circuit.csv" in words for words in commands):
        search_before(shell, Path("ours"), "tiny-induction-ioi", "induction")
        assert shell(["export", "ours", "--format", "csv", "--out", "circuit.csv"]) == 0
    for words in commands:
        if words[0] == "show" and "--edges" in words:
            # a size that the path has
            words[-1] = (tmp_path / words[1] / "path.csv").read_text().splitlines()[-1].split(",")[2]
        # of the few prompts that a stand-in has learned it does not do others, on which a removal is judged
        done = (0, 1) if words[0] == "remove" else (0,)
        assert shell(words) in ((2,) if set(MISTAKES) & set(words) else done), words


def search_before(shell: Callable[[list[str]], int], out: Path, model: str = "smollm2-135m", task: str = "ioi") -> None:
    given = ["--task", task, "--examples", "8", "--method", "eap", "--metric", "logit_difference", "--edges", "60%"]
    assert shell(["discover", "--model", model, *given, "--out", str(out)]) == 0


def pairs_on(page: str) -> str:
    """The prompts that a page shows, and those turned round: as many again, which a search on the first does not see."""
    shown = re.search(r"^```json\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    pairs = [json.loads(line) for line in shown[1].splitlines()] if shown else PAIRS
    turned = {"clean": "corrupt", "corrupt": "clean", "answers": "wrong_answers", "wrong_answers": "answers"}
    pairs += [{turned[key]: value for key, value in pair.items()} for pair in pairs]
    return "".join(json.dumps(pair) + "\n" for pair in pairs)


def in_small(words: list[str]) -> list[str]:
    """The command on few prompts, without what takes long."""
    words = [*words, "--methods", "eap"] if words[:2] == ["validate", "all"] else words
    words = [_few(word) if "," in word and words[0] == "sweep" else word for word in words]
    words = [INSTEAD.get(word, word) for word in words if word not in LEFT_OUT]
    if words[0] == "discover" and "--method" in words and "--edges" not in words:
        # a hundredth of so few edges is none
        words += [] if "acdc" in words else ["--edges", "60%"]
    prompts = "2" if any(word.endswith(".jsonl") for word in words) else "8"
    for option in FEWER.get(words[0], ()):
        if option in words:
            words[words.index(option) + 1] = prompts
        elif "--config" not in words:
            words += [option, prompts]
    return words


def _few(methods: str) -> str:
    """The first two of the methods of a sweep, and those that need settings of their own."""
    names = methods.split(",")
    return ",".join(name for number, name in enumerate(names) if number < 2 or name == "atp-star")
