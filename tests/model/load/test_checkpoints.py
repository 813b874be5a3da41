"""Checkpoints in directories: what transformers saves loads to the same logits, and what is damaged is named."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from subcircuit.errors import ModelError, SettingsError, UnsupportedModelError
from subcircuit.model import Tokens, Transformer, load_model
from tests.tiny_models import HF_FAMILIES, VOCAB, tiny_hf

TOKENS = Tokens.from_lists([list(range(20))])


def logits(model: Transformer) -> Tensor:
    with torch.no_grad():
        return model(TOKENS)


def save(folder: Path, family: str = "llama", **options: Any) -> Tensor:
    """Save a tiny transformers model; its logits."""
    hf = tiny_hf(family)
    hf.save_pretrained(folder, **options)
    with torch.no_grad():
        return hf(TOKENS.ids).logits


def save_tokenizer(folder: Path) -> None:
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved tiny Llama."""
    save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("family", HF_FAMILIES)
def test_a_saved_model_loads_with_the_same_logits(family: str, tmp_path: Path):
    expected = save(tmp_path, family)
    model = load_model(tmp_path, device="cpu")
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=0)
    assert model.name == tmp_path.name  # records carry no absolute paths
    assert model.tokenizer is None


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_shards_load_as_one_file_does(family: str, tmp_path: Path):
    expected = save(tmp_path, family, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    torch.testing.assert_close(logits(load_model(tmp_path, device="cpu")), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("family", "prefix", "extra"), [("gpt2", "transformer.", "h.0.attn.bias"), ("pythia", "gpt_neox.", "")])
def test_checkpoints_without_the_prefix_and_with_old_mask_buffers_load(family: str, prefix: str, extra: str, tmp_path: Path):
    expected = save(tmp_path, family)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors | ({extra: torch.ones(1, 1, 4, 4)} if extra else {}), tmp_path / "model.safetensors")
    torch.testing.assert_close(logits(load_model(tmp_path, device="cpu")), expected, atol=1e-4, rtol=0)


def test_the_tokenizer_comes_along(folder: Path):
    save_tokenizer(folder)
    model = load_model(folder)
    assert model.tokenizer is not None
    assert model.tokenizer("w3 w5").input_ids == [3, 5]


def test_a_tokenizer_given_is_used_instead(folder: Path):
    save_tokenizer(folder)
    given = load_model(folder).tokenizer
    assert load_model(tiny_hf("llama"), tokenizer=given).tokenizer is given


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, torch.float32),
        ("auto", torch.bfloat16),
        ("float64", torch.float64),
        (torch.float16, torch.float16),
    ],
)
def test_dtype_is_float32_unless_asked_for(asked: str | torch.dtype | None, expected: torch.dtype, tmp_path: Path):
    tiny_hf("gemma2", dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert load_model(tmp_path, dtype=asked).dtype == expected


def test_gains_are_folded_before_they_are_rounded(tmp_path: Path):
    tiny_hf("gemma2", dtype=torch.bfloat16).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")["model.norm.weight"]
    gain = load_model(tmp_path, device="cpu").weights.final_norm.gain
    assert gain is not None
    assert torch.equal(gain, 1.0 + stored.float())


def test_the_revision_follows_the_content(folder: Path, tmp_path: Path):
    first = load_model(folder).revision
    shutil.copytree(folder, tmp_path / "copy")
    assert load_model(tmp_path / "copy").revision == first
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] += 1.0
    save_file(weights, tmp_path / "copy" / "model.safetensors")
    assert load_model(tmp_path / "copy").revision != first


def test_nan_weights_load(folder: Path):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors")
    assert logits(load_model(folder)).isnan().any()


def test_overwriting_a_directory_does_not_change_the_model_loaded_from_it(folder: Path):
    model = load_model(folder)
    before = logits(model)
    _truncate(folder / "model.safetensors", 10)
    assert torch.equal(logits(model), before)


def _edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def _edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    edit(weights)
    save_file(weights, folder / "model.safetensors")


def _truncate(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def _index(folder: Path, weight_map: Any) -> None:
    """An index instead of the one file, which would come before it."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "config cut": (lambda f: _truncate(f / "config.json", 40), r"config.json is not valid JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "contains a JSON list; expected an object"),
    "config nested": (lambda f: (f / "config.json").write_text("[" * 100_000), "is not valid JSON"),
    "config absurd": (lambda f: _edit_config(f, hidden_size="wide"), "is not a valid llama config"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "lacks model.safetensors"),
    "pickles only": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "only as pickles"),
    "weights cut": (lambda f: _truncate(f / "model.safetensors", 5000), "damaged or not a safetensors file"),
    "weights empty": (lambda f: _truncate(f / "model.safetensors", 0), "damaged or not a safetensors file"),
    "header absurd": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "damaged or not a safetensors file"),
    "index outside": (lambda f: _index(f, {"a": "../model.safetensors"}), "in its own directory"),
    "index to a pickle": (lambda f: _index(f, {"a": "model.bin"}), "not a safetensors file"),
    "index empty": (lambda f: _index(f, {}), "lists no weight files"),
    "index without shard": (
        lambda f: _index(f, {"a": "model-00001-of-00001.safetensors"}),
        "lacks model-00001-of-00001.safetensors",
    ),
    "tensor missing": (
        lambda f: _edit_weights(f, lambda w: w.pop("model.layers.1.mlp.up_proj.weight")),
        r"no tensor layers\.1\.mlp\.up_proj\.weight",
    ),
    "tensor left over": (
        lambda f: _edit_weights(f, lambda w: w.update({"model.layers.0.mlp.extra": torch.ones(2)})),
        r"do not belong to its config: layers\.0\.mlp\.extra",
    ),
    "layers left over": (lambda f: _edit_config(f, num_hidden_layers=2), r"do not belong to its config: layers\.2\."),
    "other vocabulary": (
        lambda f: _edit_config(f, vocab_size=60),
        r"embed_tokens\.weight has shape \(61, 32\); the config requires \(60, 32\)",
    ),
    "heads misshapen": (
        lambda f: _edit_weights(f, lambda w: w.update({"model.layers.2.self_attn.o_proj.weight": torch.ones(32, 30)})),
        r"layers\.2\.self_attn\.o_proj\.weight has shape \(32, 30\); the config requires \(32, 32\)",
    ),
    "tokenizer broken": (lambda f: (f / "tokenizer.json").write_text("{"), "the tokenizer in .* cannot be read"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_named(fault: str, folder: Path):
    damage, message = FAULTS[fault]
    damage(folder)
    with pytest.raises(ModelError, match=message) as raised:
        load_model(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["mamba", None, ["llama"]])
def test_an_unsupported_architecture_is_refused_before_anything_else(kind: object, folder: Path):
    _edit_config(folder, model_type=kind)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match="supported are gemma2"):
        load_model(folder)


def test_code_in_a_checkpoint_is_not_run(folder: Path):
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Evil: ...\n")
    _edit_config(folder, auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"})
    save_tokenizer(folder)
    tokenizer_config = folder / "tokenizer_config.json"
    changed = json.loads(tokenizer_config.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    tokenizer_config.write_text(json.dumps(changed))
    with suppress(ModelError):
        load_model(folder)
    assert not (folder / "ran").exists()


def test_a_directory_has_no_revisions(folder: Path):
    with pytest.raises(SettingsError, match="a directory has no revisions"):
        load_model(folder, revision="main")


def test_a_path_that_is_not_there_is_not_looked_up_elsewhere(tmp_path: Path):
    with pytest.raises(ModelError, match="there is no file or directory"):
        load_model(tmp_path / "nothing")
    with pytest.raises(ModelError, match="there is no file or directory"):
        load_model("./nothing.gguf")


def test_a_weights_file_alone_is_not_a_model(folder: Path):
    with pytest.raises(ModelError, match="give the directory"):
        load_model(folder / "model.safetensors")


def test_loading_leaves_logging_and_stderr_as_they_were(folder: Path, capfd: pytest.CaptureFixture[str]):
    from transformers.utils import logging

    save_tokenizer(folder)
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(folder)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")
