"""A model in memory loads where its config and weights are all that it computes with, and is refused where they are not."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import AutoModel, PreTrainedModel

from subcircuit.errors import ModelError, UnsupportedModelError
from subcircuit.model import Tokens, Transformer, load_model
from tests.tiny_models import HF_FAMILIES, VOCAB, tiny_hf

TOKENS = Tokens.from_lists([list(range(20))])
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)


def their_logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(TOKENS.ids).logits


def our_logits(model: Transformer) -> Tensor:
    with torch.no_grad():
        return model(TOKENS)


def layer_of(model: Any, number: int) -> Any:
    base = model.base_model
    return (base.h if hasattr(base, "h") else base.layers)[number]


def mlp_of(model: Any, number: int) -> Any:
    return layer_of(model, number).mlp


def attention_of(model: Any, number: int) -> Any:
    layer = layer_of(model, number)
    return next(part for name, part in layer.named_children() if name in ("attn", "attention", "self_attn"))


def scaled(output: Any, factor: float) -> Any:
    """The output with every second number scaled: a norm that follows would undo the scaling of all."""
    if isinstance(output, tuple):
        return (scaled(output[0], factor), *output[1:])
    factors = torch.ones(output.shape[-1], dtype=output.dtype)
    factors[::2] = factor
    return output * factors


def scaling(module: nn.Module, factor: float) -> None:
    module.register_forward_hook(lambda _module, _args, output: scaled(output, factor))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", HF_FAMILIES)
def test_models_as_they_are_load_in_every_dtype(family: str, attention: str, dtype: torch.dtype) -> None:
    for seed in range(2):
        hf = tiny_hf(family, seed, dtype)
        if family != "gemma2":  # transformers has its soft caps in eager attention only
            hf.config._attn_implementation = attention
        load_model(hf, device="cpu")


PLACES: dict[str, tuple[Callable[[Any], nn.Module], str]] = {
    "embedding": (lambda hf: hf.get_input_embeddings(), "the embeddings differ"),
    "first layer": (lambda hf: layer_of(hf, 0), "after layer 0"),
    "attention": (lambda hf: attention_of(hf, 1), "after layer 1"),
    "MLP": (lambda hf: mlp_of(hf, 1), "after layer 1"),
    "last layer": (lambda hf: layer_of(hf, 2), "after layer 2"),
    "logits": (lambda hf: hf.get_output_embeddings(), "the logits part"),
}


@pytest.mark.parametrize(("family", "factor"), [*((family, 1.001) for family in HF_FAMILIES), ("llama", 0.0), ("llama", 3.0)])
@pytest.mark.parametrize("place", PLACES)
def test_a_hook_that_changes_something_is_refused_with_its_place(family: str, place: str, factor: float) -> None:
    find, where = PLACES[place]
    hf = tiny_hf(family)
    scaling(find(hf), factor)
    with pytest.raises(ModelError, match=f"computes something else than its config and weights: on 8 tokens .*{where}") as raised:
        load_model(hf)
    assert "has a hook" in str(raised.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("place", PLACES)
def test_large_changes_are_seen_in_half_precision(place: str, dtype: torch.dtype) -> None:
    find, where = PLACES[place]
    hf = tiny_hf("llama", dtype=dtype)
    scaling(find(hf), 3.0)
    with pytest.raises(ModelError, match=where):
        load_model(hf)


def _pre_hook(hf: Any) -> None:
    mlp_of(hf, 1).register_forward_pre_hook(lambda _module, args: (args[0] * 1.01, *args[1:]))


def _replaced_forward(hf: Any) -> None:
    mlp, really = mlp_of(hf, 1), mlp_of(hf, 1).forward
    mlp.forward = lambda x: really(x) + 0.1


def _replaced_module(hf: Any) -> None:
    mlp_of(hf, 1).act_fn = nn.ReLU()


def _edited_config(hf: Any) -> None:
    hf.config.rms_norm_eps = 0.5


def _one_neuron(hf: Any) -> None:
    def without_one(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept = torch.ones(args[0].shape[-1])
        kept[7] = 0
        return (args[0] * kept,)

    mlp_of(hf, 1).down_proj.register_forward_pre_hook(without_one)


def _skipped_layer(hf: Any) -> None:
    layer_of(hf, 1).forward = lambda hidden_states, **_: hidden_states


def _replaced_logits(hf: Any) -> None:
    hf.register_forward_hook(lambda _module, _args, output: output | {"logits": output.logits + 0.1})


CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "pre-hook": (_pre_hook, r"after layer 1 .*model.layers.1.mlp has a hook"),
    "replaced forward": (_replaced_forward, r"after layer 1 .*the forward pass of model.layers.1.mlp is replaced"),
    "replaced module": (_replaced_module, "after layer 1"),
    "edited config": (_edited_config, "after layer 0"),
    "one neuron": (_one_neuron, "after layer 1"),
    "skipped layer": (_skipped_layer, "after layer 1"),
    "replaced logits": (_replaced_logits, "the logits part after the last layer .*the model has a hook"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_other_change_is_refused_too(change: str) -> None:
    make, where = CHANGES[change]
    hf = tiny_hf("llama")
    make(hf)
    with pytest.raises(ModelError, match=where):
        load_model(hf)


def test_weights_that_are_no_numbers_load_and_outputs_that_become_none_do_not() -> None:
    hf = tiny_hf("llama")
    mlp_of(hf, 1).up_proj.weight.data[0, 0] = float("nan")
    assert our_logits(load_model(hf)).isnan().any()
    hf = tiny_hf("llama")
    scaling(mlp_of(hf, 1), float("nan"))
    with pytest.raises(ModelError, match="after layer 1"):
        load_model(hf)


def test_hooks_that_only_look_are_no_obstacle() -> None:
    hf, seen = tiny_hf("llama"), []
    mlp_of(hf, 1).register_forward_hook(lambda _module, _args, output: seen.append(output))
    expected = their_logits(hf)
    torch.testing.assert_close(our_logits(load_model(hf, device="cpu")), expected, atol=1e-4, rtol=0)
    assert seen


def test_a_model_is_left_as_it_was() -> None:
    hf = tiny_hf("gpt2")
    hf.train()
    mlp_of(hf, 1).eval()
    before = {
        name: (module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in hf.named_modules()
    }
    weights = copy.deepcopy(hf.state_dict())
    load_model(hf)
    after = {
        name: (module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in hf.named_modules()
    }
    assert before == after
    assert all(torch.equal(weights[name], tensor) for name, tensor in hf.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in hf.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda hf: torch.compile(nn.DataParallel(hf))])
def test_wrappers_are_looked_through(wrap: Callable[[PreTrainedModel], nn.Module]) -> None:
    hf = tiny_hf("llama")
    assert load_model(wrap(hf), device="cpu").name == "LlamaForCausalLM"
    torch.testing.assert_close(our_logits(load_model(wrap(hf), device="cpu")), their_logits(hf), atol=1e-4, rtol=0)
    scaling(mlp_of(hf, 1), 3.0)
    with pytest.raises(ModelError, match="after layer 1"):
        load_model(wrap(hf))


def test_a_hook_on_a_wrapper_is_not_dropped() -> None:
    wrapped = nn.DataParallel(tiny_hf("llama"))
    scaling(wrapped, 3.0)
    with pytest.raises(ModelError, match="a DataParallel with hooks"):
        load_model(wrapped)


@pytest.mark.parametrize("nothing", [nn.Linear(2, 2), nn.DataParallel(nn.Linear(2, 2)), nn.ModuleList()])
def test_what_is_no_model_is_refused(nothing: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"is not a model that can be loaded: give .*AutoModelForCausalLM"):
        load_model(nothing)


def test_a_model_without_logits_is_refused() -> None:
    with pytest.raises(ModelError, match="logits of 61 tokens"):
        load_model(AutoModel.from_config(tiny_hf("gpt2").config))


def test_meta_tensors_are_refused() -> None:
    with torch.device("meta"):
        hf = type(tiny_hf("llama"))(tiny_hf("llama").config)
    with pytest.raises(ModelError, match=r"has no weights in memory \(model.embed_tokens.weight is on the meta device\)"):
        load_model(hf)
    with pytest.raises(ModelError, match="has no weights in memory"):
        load_model(cpu_offload(tiny_hf("llama"), execution_device=torch.device("cpu")))


@pytest.mark.filterwarnings("ignore")
def test_quantised_weights_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"is quantised .*q_proj.*load it"):
        load_model(torch.ao.quantization.quantize_dynamic(tiny_hf("llama"), {nn.Linear}))
    for dtype in (torch.int8, torch.float8_e4m3fn):
        hf = tiny_hf("llama")
        weight = mlp_of(hf, 1).up_proj.weight
        mlp_of(hf, 1).up_proj.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
        with pytest.raises(UnsupportedModelError, match=r"model.layers.1.mlp.up_proj.weight is a Tensor of (int8|float8_e4m3fn)"):
            load_model(hf)


def test_weights_that_are_computed_on_the_fly_are_refused() -> None:
    hf = tiny_hf("llama")
    parametrize.register_parametrization(mlp_of(hf, 1).up_proj, "weight", nn.Identity())
    with pytest.raises(ModelError, match=r"no tensor layers\.1\.mlp\.up_proj\.weight"):
        load_model(hf)


def test_an_adapter_is_refused_until_it_is_merged() -> None:
    hf = tiny_hf("llama")
    before = their_logits(hf)
    adapted = get_peft_model(hf, LORA).eval()
    after = their_logits(adapted)
    assert (before - after).abs().max() > 0.1
    for model in (adapted, hf):
        with pytest.raises(ModelError, match=r"has an adapter \(.*\), .*merge_and_unload"):
            load_model(model)
    merged: Any = adapted.merge_and_unload()
    torch.testing.assert_close(our_logits(load_model(merged, device="cpu")), after, atol=1e-4, rtol=0)


def test_a_forward_pass_that_fails_is_named() -> None:
    def fails(*_args: Any, **_kwargs: Any) -> None:
        raise KeyError("nothing here")

    hf: Any = tiny_hf("llama")
    hf.forward = fails
    with pytest.raises(ModelError, match="the LlamaForCausalLM in memory fails on a forward pass of 8 tokens: 'nothing here'"):
        load_model(hf)


def test_rounding_of_the_surroundings_does_not_count() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        load_model(tiny_hf("llama"))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        load_model(tiny_hf("llama"))
    finally:
        torch.set_float32_matmul_precision(before)


def test_vocabularies_smaller_than_the_probe_are_compared_too() -> None:
    assert VOCAB > 8
    load_model(tiny_hf("llama", vocab_size=3, bos_token_id=0, eos_token_id=1))
    load_model(tiny_hf("llama", max_position_embeddings=2))
