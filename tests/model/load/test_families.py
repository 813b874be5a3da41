"""Our forward pass is Hugging Face's, for every family, length, padding, rope scaling and dtype."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import MambaConfig, PreTrainedModel

from subcircuit.errors import UnsupportedModelError
from subcircuit.model import MLPWeights, Tokens, Transformer, load_model, read_model
from tests.tiny_models import CONTEXT, FAMILIES, HF_FAMILIES, VOCAB, tiny, tiny_hf

prompts = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=CONTEXT), min_size=1, max_size=4)


def hf_logits(model: PreTrainedModel, tokens: Tokens) -> Tensor:
    real = (torch.arange(tokens.ids.shape[1]) < tokens.lengths[:, None]).long()
    with torch.no_grad():
        return model(input_ids=tokens.ids, attention_mask=real).logits


def our_logits(model: Transformer, tokens: Tokens) -> Tensor:
    with torch.no_grad():
        return model(tokens)


def largest_difference(ours: Tensor, theirs: Tensor, lengths: Tensor) -> float:
    real = torch.arange(ours.shape[1]) < lengths[:, None]
    return (ours - theirs)[real].abs().max().item()


class Float64Throughout(TorchFunctionMode):
    """Inside, what transformers computes in float32 whatever the model's dtype (norms, angles, softmax) is float64."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        wide = {torch.float32: torch.float64}
        kwargs = {k: wide.get(v, v) if isinstance(v, torch.dtype) else v for k, v in (kwargs or {}).items()}
        args = tuple(wide.get(a, a) if isinstance(a, torch.dtype) else a for a in args)
        return (Tensor.double if func is Tensor.float else func)(*args, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("family", HF_FAMILIES)
@settings(max_examples=4, deadline=None)
@given(prompts, st.integers(0, 2**16))
def test_logits_are_hugging_face_s_at_every_real_position(family: str, ids: list[list[int]], seed: int):
    tokens = Tokens.from_lists(ids)
    hf = tiny_hf(family, seed)
    ours = load_model(hf, device="cpu")
    assert largest_difference(our_logits(ours, tokens), hf_logits(hf, tokens), tokens.lengths) <= 1e-4


@pytest.mark.parametrize("family", HF_FAMILIES)
def test_float64_logits_agree_to_nine_digits(family: str):
    hf = tiny_hf(family, 3, torch.float64)
    embedding = hf.get_input_embeddings()
    if hasattr(embedding, "embed_scale"):  # kept in float32 when the model is converted
        embedding.embed_scale = torch.tensor(hf.config.hidden_size**0.5, dtype=torch.float64)
    tokens = Tokens.from_lists([list(range(20)), [5, 4, 3]])
    ours = load_model(hf, dtype="float64", device="cpu")
    with Float64Throughout():
        theirs = hf_logits(hf, tokens)
    assert theirs.dtype == torch.float64
    assert largest_difference(our_logits(ours, tokens), theirs, tokens.lengths) <= 1e-9


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "bidirectional"])
@settings(max_examples=4, deadline=None)
@given(prompts, st.integers(0, VOCAB - 1))
def test_padded_prompts_give_what_they_give_alone(family: str, ids: list[list[int]], filler: int):
    model = tiny(family, 1, torch.float64)
    tokens = Tokens.from_lists(ids)
    past_the_end = torch.arange(tokens.ids.shape[1]) >= tokens.lengths[:, None]
    together = our_logits(model, replace(tokens, ids=tokens.ids.masked_fill(past_the_end, filler)))
    for row, prompt in zip(together, ids, strict=True):
        alone = our_logits(model, Tokens.from_lists([prompt]))[0]
        torch.testing.assert_close(row[: len(prompt)], alone, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_models_attend_unevenly_and_their_logits_spread(family: str):
    """Otherwise the tests of this package would prove little."""
    logits = our_logits(tiny(family), Tokens.from_lists([list(range(CONTEXT))]))
    assert 1.0 < logits.std().item() < 12.0
    reordered = our_logits(tiny(family), Tokens.from_lists([[*range(CONTEXT - 2, -1, -1), CONTEXT - 1]]))
    assert (logits[0, -1] - reordered[0, -1]).abs().max() > (-1.0 if family == "attention_only_bare" else 0.05)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(family: str, dtype: torch.dtype):
    tokens = Tokens.from_lists([[1, 2, 3, 4, 5, 6, 7, 8]])
    exact, half = our_logits(tiny(family), tokens), our_logits(tiny(family, dtype=dtype), tokens)
    assert half.dtype == dtype
    assert (half.float() - exact).abs().mean() < (0.15 if dtype == torch.bfloat16 else 0.02) * exact.std()


SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
        "rope_theta": 10000.0,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "rope_theta": 10000.0},
}


@pytest.mark.parametrize("scaling", SCALINGS)
def test_rope_scalings_are_those_of_transformers(scaling: str):
    hf, plain = tiny_hf("llama_gqa", rope_parameters=dict(SCALINGS[scaling])), tiny_hf("llama_gqa")
    tokens = Tokens.from_lists([list(range(CONTEXT))])
    ours = our_logits(load_model(hf, device="cpu"), tokens)
    assert largest_difference(ours, hf_logits(hf, tokens), tokens.lengths) <= 1e-4
    assert largest_difference(ours, hf_logits(plain, tokens), tokens.lengths) > 0.1


@pytest.mark.parametrize("scaling", [None, *SCALINGS])
def test_gemma3_scales_only_its_full_attention_layers(scaling: str | None):
    types: dict[str, Any] = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_theta": 1e6},
    }
    if scaling is not None:
        types["full_attention"] = dict(SCALINGS[scaling])
    hf = tiny_hf("gemma3", rope_parameters=types)
    tokens = Tokens.from_lists([list(range(CONTEXT))])
    ours = load_model(hf, device="cpu")
    assert largest_difference(our_logits(ours, tokens), hf_logits(hf, tokens), tokens.lengths) <= 1e-4
    assert ours.config.rotary[0] == ours.config.rotary[2] != ours.config.rotary[1]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt2", {"scale_attn_weights": False}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"n_inner": None}),
        ("gpt2", {"activation_function": "relu"}),
        ("gpt2", {"tie_word_embeddings": False}),
        ("pythia", {"attention_bias": False}),
        ("pythia", {"hidden_act": "gelu_new"}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"use_sliding_window": False, "layer_types": None}),
        ("qwen3", {"attention_bias": True}),
        ("gemma2", {"attention_bias": True, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
        ("gemma3", {"final_logit_softcapping": 5.0, "layer_types": None}),
        ("gemma3", {"attn_logit_softcapping": 0.5}),  # a field of its class that its attention does not apply
    ],
)
def test_config_switches_are_heeded(family: str, changes: dict[str, Any]):
    hf = tiny_hf(family, **changes)
    tokens = Tokens.from_lists([list(range(CONTEXT))])
    assert largest_difference(our_logits(load_model(hf, device="cpu"), tokens), hf_logits(hf, tokens), tokens.lengths) <= 1e-4


@pytest.mark.parametrize(
    ("family", "changes", "field"),
    [
        ("gpt2", {"activation_function": "tanh"}, "activation_function"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "rope_parameters.rope_type"),
        ("llama", {"hidden_act": "mish"}, "hidden_act"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ],
)
def test_unsupported_features_are_refused_by_the_name_of_the_field(family: str, changes: dict[str, Any], field: str):
    hf = tiny_hf(family)
    for name, value in changes.items():
        setattr(hf.config, name, value)
    with pytest.raises(UnsupportedModelError, match=field):
        load_model(hf)


def test_quantised_weights_are_refused():
    hf = tiny_hf("llama")
    hf.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(UnsupportedModelError, match="quantization_config"):
        load_model(hf)


def test_other_architectures_are_refused_with_a_list_of_those_supported():
    with pytest.raises(UnsupportedModelError, match=r"'mamba'.*gemma2.*gpt2.*qwen3"):
        read_model(MambaConfig(), {})


def test_attention_only_is_gpt2_whose_mlps_write_nothing():
    hf = tiny_hf("gpt2", 5)
    full = load_model(hf, device="cpu")
    layers = tuple(replace(layer, mlp=None, mlp_norm=None) for layer in full.weights.layers)
    ours = replace(full, config=replace(full.config, d_mlp=0), weights=replace(full.weights, layers=layers))
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "mlp.c_proj" in name:
                parameter.zero_()
    tokens = Tokens.from_lists([list(range(20))])
    assert largest_difference(our_logits(ours, tokens), hf_logits(hf, tokens), tokens.lengths) <= 1e-4


def test_tied_embeddings_share_their_tensor_and_untied_ones_do_not():
    tied, untied = tiny("llama_gqa"), tiny("llama")
    assert tied.weights.W_U is tied.weights.W_E
    moved = tied.to(dtype=torch.float64).weights
    assert moved.W_U is moved.W_E
    assert untied.weights.W_U is not untied.weights.W_E


def test_changing_the_transformers_model_later_does_not_change_ours():
    hf = tiny_hf("qwen3")
    tokens = Tokens.from_lists([[1, 2, 3]])
    ours = load_model(hf, device="cpu")
    before = our_logits(ours, tokens)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.zero_()
    assert torch.equal(our_logits(ours, tokens), before)


def test_neurons_write_their_rows():
    """Row i of W_in is what neuron i reads, row i of W_out what it writes."""
    hf = tiny_hf("pythia")
    ours, i = load_model(hf, device="cpu"), 7
    layer = ours.weights.layers[1]
    assert isinstance(layer.mlp, MLPWeights)
    theirs = hf.state_dict()
    assert torch.equal(layer.mlp.W_out[i], theirs["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"][:, i])
    assert torch.equal(layer.mlp.W_in[i], theirs["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"][i])
