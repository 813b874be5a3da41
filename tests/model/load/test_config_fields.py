"""A family reads its own fields of a config and no others: what transformers ignores changes nothing here either."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from subcircuit.errors import UnsupportedModelError
from subcircuit.model import Tokens, Transformer, load_model
from subcircuit.model.load.families import read_model
from tests.tiny_models import CONTEXT, HF_FAMILIES, config_class, tiny_hf

# one of each config class
FAMILIES = tuple({config_class(family): family for family in HF_FAMILIES}.values())
TOKENS = Tokens.from_lists([list(range(CONTEXT))])
# they would change the logits of a family that reads them
VALUES: dict[str, Any] = {
    "activation_function": "relu",
    "attention_bias": True,
    "attn_logit_softcapping": 0.5,
    "final_logit_softcapping": 0.5,
    "head_dim": 10,
    "hidden_act": "relu",
    "hidden_activation": "relu",
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "mlp_only_layers": [0],
    "num_key_value_heads": 3,
    "query_pre_attn_scalar": 3,
    "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0},
    "sliding_window": 3,
}
# names of fields that older checkpoints hold, and of fields of other families than those here
OLD = {
    "alibi": True,
    "attention_multiplier": 0.3,
    "clip_qkv": 0.1,
    "embedding_multiplier": 3.0,
    "logit_scale": 0.1,
    "n_inner": 20,
    "no_rope_layers": [0, 1, 0],
    "partial_rotary_factor": 0.5,
    "parallel_attn": True,
    "pretraining_tp": 2,
    "residual_multiplier": 0.3,
    "rope_scaling": None,
    "rope_local_base_freq": 50.0,
    "rotary_emb_base": 50.0,
    "rotary_pct": 0.5,
    "sliding_window_pattern": 2,
    "tie_encoder_decoder": True,
    "use_qk_norm": True,
}


def declared(family: str) -> dict[str, Any]:
    """The fields of a family's config class, with their defaults."""
    names = config_class(family).attribute_map
    own = {field.name: field.default for field in fields(config_class(family))}
    return own | {alias: own.get(name) for alias, name in names.items()}


def other_value(default: Any) -> Any:
    """A value of the same kind that is not the default."""
    match default:
        case bool():
            return not default
        case int():
            return 3 if default == 2 else 2
        case float():
            return default * 3 + 0.25
        case _:
            return None


def stray(family: str) -> dict[str, Any]:
    """Fields that the other families have and this one lacks, with values that are not their defaults."""
    others = {name: default for other in FAMILIES for name, default in declared(other).items()}
    foreign = {name: VALUES.get(name, other_value(default)) for name, default in others.items()} | OLD
    return {name: value for name, value in foreign.items() if name not in declared(family) and value is not None}


def hf_logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(TOKENS.ids, use_cache=False).logits


def our_logits(hf: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return Transformer(*read_model(hf.config, hf.state_dict()))(TOKENS)


def compared(family: str, settings: dict[str, Any], refused: Mapping[str, str] | None = None) -> int:
    """Compare the logits with transformers', with each of these settings alone; how many transformers can use."""
    count, refused = 0, refused or {}
    for name, value in settings.items():
        try:
            hf = tiny_hf(family, **{name: deepcopy(value)})
            expected = hf_logits(hf)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, StrictDataclassError, TypeError, ValueError):
            continue  # transformers itself cannot use it
        count += 1
        if name in refused:
            with pytest.raises(UnsupportedModelError, match=f"{hf.config.model_type}: {refused[name]} = "):
                our_logits(hf)
            continue
        difference = (our_logits(hf) - expected).abs().max().item()
        assert difference < 1e-4, f"{family} with {name} = {value!r} is off by {difference}"
    return count


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_fields_of_other_families_do_what_they_do_in_transformers(family: str) -> None:
    assert compared(family, stray(family)) > 20


# what is not implemented, and the field that the refusal names
REFUSED = {
    "gpt2": {"add_cross_attention": "add_cross_attention"},
    "gemma3": {"use_bidirectional_attention": "use_bidirectional_attention"},
    "qwen2_moe": {"layer_types": "sliding_window"},  # layers with windows, and no window
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_s_own_fields_do_what_they_do_in_transformers(family: str) -> None:
    values = VALUES | {"num_key_value_heads": 1}
    own = {name: values.get(name, other_value(default)) for name, default in declared(family).items()}
    own = {name: value for name, value in own.items() if value is not None}
    assert compared(family, own, REFUSED.get(family, {})) > 10


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "gemma3"])
@pytest.mark.parametrize(
    ("field", "value"), [("is_causal", False), ("is_causal", None), ("per_layer_config", {"1": {"attention_dropout": 0.5}})]
)
def test_fields_that_change_every_family_s_computation_are_refused(family: str, field: str, value: Any) -> None:
    hf = tiny_hf(family)
    if field == "per_layer_config" and family == "gpt2":
        value = {"1": {"attn_pdrop": 0.5}}
    setattr(hf.config, field, value)
    with pytest.raises(UnsupportedModelError, match=f"{hf.config.model_type}: {field} = "):
        read_model(hf.config, hf.state_dict())


@pytest.mark.parametrize(
    "stray_fields", [{"sliding_window": 3}, {"sliding_window": 3, "use_sliding_window": False}, {"qkv_bias": True}]
)
@pytest.mark.parametrize("family", ["llama_gqa", "gpt2", "qwen2"])
def test_stray_fields_of_a_folder_are_ignored_as_transformers_ignores_them(
    family: str, stray_fields: dict[str, Any], tmp_path: Path
) -> None:
    tiny_hf(family, use_sliding_window=False).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | stray_fields))
    expected = hf_logits(AutoModelForCausalLM.from_pretrained(tmp_path).eval())
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path, device="cpu")(TOKENS), expected, atol=1e-4, rtol=0)
