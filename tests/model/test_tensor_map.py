"""Tensor maps: what is read through one and written back through it is what was in the file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from subcircuit.errors import ModelError
from subcircuit.model import Transformer, load_model, named_tensors, read_model
from subcircuit.model.load.families import FAMILIES
from tests.tiny_models import HF_FAMILIES, tiny_hf

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    *((family, {}) for family in HF_FAMILIES),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", {"tie_word_embeddings": False}),
    ("pythia", {"attention_bias": False}),
    ("qwen3", {"attention_bias": True}),
    ("gemma2", {"attention_bias": True}),
)


def written(model: Transformer, names: set[str]) -> dict[str, Tensor]:
    """The tensors of these names, filled through the map with the model's weights."""
    assert model.family is not None
    tensor_map, weights = model.family.tensor_map, dict(named_tensors(model.weights))
    in_file, tensors = tensor_map.names_in(names), dict[str, Tensor]()
    for slot in tensor_map.slots(model.config, in_file):
        if slot.name in in_file:
            stored = tensors[in_file[slot.name]] = torch.full(slot.shape, torch.nan)
            for view, weight in zip(slot.views(stored), slot.weights, strict=True):
                view.copy_(weights[weight] - slot.row.offset)
    return tensors


@pytest.mark.parametrize(("family", "changes"), CASES)
def test_weights_written_back_are_the_tensors_they_were_read_from(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    hf = tiny_hf(family, 4, **changes)
    hf.save_pretrained(tmp_path)
    for model, tensors in (
        (load_model(tmp_path, device="cpu"), load_file(tmp_path / "model.safetensors")),
        (load_model(hf, device="cpu"), hf.state_dict()),
    ):
        again = written(model, set(tensors))
        assert again.keys() == tensors.keys()
        for name, tensor in tensors.items():
            # what is offset or divided is rounded
            rounded = family.startswith("gemma") and "norm" in name
            near = 1e-6 if rounded else 0.0
            if changes.get("scale_attn_by_inverse_layer_idx") and "c_attn" in name:
                layer, width = int(name.split(".")[2]), model.config.d_model
                again[name][..., :width] *= layer + 1
                near = 1e-6
            torch.testing.assert_close(again[name], tensor, atol=near, rtol=near, msg=name)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_no_map_holds_a_weight_twice_without_saying_which_row_comes_first(architecture: str) -> None:
    rows = FAMILIES[architecture].tensor_map.per_layer
    sure = [weight for row in rows if not row.optional for weight in row.weights]
    assert len(sure) == len(set(sure))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda tensors: tensors.pop("transformer.h.1.attn.c_attn.weight"),
            r"no tensor h\.1\.attn\.c_attn\.weight, .*nearest are",
        ),
        (
            lambda tensors: tensors.update({"transformer.h.1.attn.c_attn.weight": torch.ones(96, 32)}),
            r"tensor h\.1\.attn\.c_attn\.weight has shape \(96, 32\); the config requires \(32, 96\)",
        ),
        (
            lambda tensors: tensors.update({"wte.weight": torch.ones(61, 32)}),
            r"under two names: transformer\.wte\.weight and wte\.weight",
        ),
        (
            lambda tensors: tensors.update({"transformer.h.3.ln_1.bias": torch.ones(32)}),
            r"1 tensors that do not belong to its config: h\.3\.ln_1\.bias",
        ),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_named(edit: Any, words: str) -> None:
    hf = tiny_hf("gpt2")
    tensors = dict(hf.state_dict())
    edit(tensors)
    with pytest.raises(ModelError, match=words):
        read_model(hf.config, tensors)
