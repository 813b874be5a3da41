"""A folder means what it means to transformers, or is refused with the way out."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from subcircuit.edit import write_checkpoint
from subcircuit.errors import ModelError
from subcircuit.graph import Head
from subcircuit.model import Tokens, Transformer, load_model
from tests.tiny_models import tiny_hf

TOKENS = Tokens.from_lists([list(range(20))])
WAYS = ("one file", "shards", "pickle", "named file", "named shards")


def their_logits(model: PreTrainedModel | PeftModel) -> Tensor:
    with torch.no_grad():
        return model(TOKENS.ids).logits


def our_logits(model: Transformer) -> Tensor:
    with torch.no_grad():
        return model(TOKENS)


def put(folder: Path, way: str) -> None:
    """Weights of their own, in one of the ways in which a folder can hold some."""
    tensors = {name: tensor.clone() for name, tensor in tiny_hf("llama", WAYS.index(way)).state_dict().items()}
    config = json.loads((folder / "config.json").read_text())
    match way:
        case "one file":
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        case "shards":
            put_shards(folder, tensors, "model")
        case "pickle":
            torch.save(tensors, folder / "pytorch_model.bin")
        case "named file":
            save_file(tensors, folder / "other.safetensors", metadata={"format": "pt"})
            (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "other.safetensors"}))
        case "named shards":
            put_shards(folder, tensors, "named")
            (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "named.safetensors.index.json"}))


def put_shards(folder: Path, tensors: dict[str, Tensor], name: str) -> None:
    files = {key: f"{name}-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(tensors)}
    for file in set(files.values()):
        save_file({key: tensors[key] for key in tensors if files[key] == file}, folder / file, metadata={"format": "pt"})
    (folder / f"{name}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


@pytest.mark.slow
@pytest.mark.parametrize("present", [ways for ways in product((False, True), repeat=len(WAYS)) if any(ways)])
def test_the_weights_are_those_that_transformers_takes(present: tuple[bool, ...], tmp_path: Path) -> None:
    tiny_hf("llama").config.save_pretrained(tmp_path)
    ways = [way for way, there in zip(WAYS, present, strict=True) if there]
    for way in ways:
        put(tmp_path, way)
    if ways == ["pickle"]:
        with pytest.raises(ModelError, match="only as pickles"):
            load_model(tmp_path)
        return
    expected = their_logits(AutoModelForCausalLM.from_pretrained(tmp_path).eval())
    torch.testing.assert_close(our_logits(load_model(tmp_path, device="cpu")), expected, atol=1e-4, rtol=0)


def test_an_index_whose_shards_are_gone_does_not_matter_beside_the_one_file(tmp_path: Path) -> None:
    tiny_hf("llama", 1).save_pretrained(tmp_path, max_shard_size="20KB")
    tiny_hf("llama", 2).save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.glob("*.safetensors*")} == {"model.safetensors", "model.safetensors.index.json"}
    torch.testing.assert_close(our_logits(load_model(tmp_path)), their_logits(tiny_hf("llama", 2)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["../model.safetensors", "/model.safetensors", "model.bin", "a/b.safetensors", 3, ""])
def test_a_config_names_weights_in_its_own_folder(name: object, tmp_path: Path) -> None:
    tiny_hf("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))
    with pytest.raises(ModelError, match=r"config.json (names .* in its own directory|is not a valid llama config)"):
        load_model(tmp_path)


def test_what_is_edited_has_its_weights_under_the_usual_name(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    tiny_hf("llama").config.save_pretrained(tmp_path / "base")
    put(tmp_path / "base", "named file")
    (tmp_path / "edited").mkdir()
    write_checkpoint(load_model(tmp_path / "base"), (Head(0, 1),), None, tmp_path / "edited")
    assert load_model(tmp_path / "edited").config.n_layers == 3


@pytest.fixture
def adapted(tmp_path: Path) -> tuple[PeftModel, Path]:
    """A model with an adapter, and the folder of the adapter."""
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    tiny_hf("llama").save_pretrained(tmp_path / "base")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), settings).eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter) * 0.3
    model.save_pretrained(str(tmp_path / "adapter"))
    return model, tmp_path / "adapter"


def test_an_adapter_is_refused_with_its_model_and_the_way_out(adapted: tuple[PeftModel, Path], tmp_path: Path) -> None:
    model, adapter = adapted
    with pytest.raises(
        ModelError, match=rf"adapter contains an adapter .* to '{tmp_path / 'base'}' and no model: .*merge_and_unload"
    ):
        load_model(adapter)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().save_pretrained(tmp_path / "merged")
    assert (their_logits(tiny_hf("llama")) - their_logits(model)).abs().max() > 0.1
    torch.testing.assert_close(our_logits(load_model(tmp_path / "merged")), their_logits(model), atol=1e-4, rtol=0)


@pytest.mark.parametrize("base", ["null", '""', None])
def test_an_adapter_that_names_no_base_is_refused_without_one(base: str | None, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}" if base is None else f'{{"base_model_name_or_path": {base}}}')
    with pytest.raises(
        ModelError, match=r"contains an adapter \(adapter_config.json\) and no model: .*, and save the merged model$"
    ):
        load_model(tmp_path)


def test_an_adapter_beside_its_model_is_not_dropped(adapted: tuple[PeftModel, Path], tmp_path: Path) -> None:
    adapted[0].save_pretrained(str(tmp_path / "base"))
    with pytest.raises(
        ModelError, match=r"a model \(config.json\) and an adapter to it \(adapter_config.json\).*merge_and_unload"
    ):
        load_model(tmp_path / "base")
    (tmp_path / "base" / "adapter_config.json").rename(tmp_path / "away.json")
    torch.testing.assert_close(our_logits(load_model(tmp_path / "base")), their_logits(tiny_hf("llama")), atol=1e-4, rtol=0)
