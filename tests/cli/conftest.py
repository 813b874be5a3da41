"""A tiny random model on disk, and the command line called as a shell would call it."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from subcircuit.cli.main import main
from tests.tiny_models import VOCAB, tiny_hf


class Output(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one line of standard output, as JSON."""
        (line,) = self.out.splitlines()
        return json.loads(line)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with a random two-layer model whose tokenizer knows the words ``w2 … w60``."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_hf("llama").save_pretrained(folder)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<s>"}
    words = Tokenizer(WordLevel({"<s>": 0, "</s>": 1} | {f"w{i}": i for i in range(2, VOCAB)}, unk_token="<s>"))
    words.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A file of six pairs of prompts: three to search with, one to choose by, two to judge with."""
    return written(tmp_path / "words.jsonl", (10, 20, 30, 40, 44, 48), 1)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A file of twelve pairs of prompts."""
    return written(tmp_path / "many.jsonl", range(10, 22), 12)


def written(file: Path, words: Iterable[int], away: int) -> Path:
    """Pairs of prompts, one for each of these words; the corrupted one has another word, so far away."""
    pairs = [
        {"clean": f"w3 w{i} w5 w6", "corrupt": f"w3 w{i + away} w5 w6", "answers": [f" w{i}"], "wrong_answers": [f" w{i + away}"]}
        for i in words
    ]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return file


@pytest.fixture
def subcircuit(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Output]:
    """Run a command in an empty directory of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Output:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Output(code, out, err)

    return run
