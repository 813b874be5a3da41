"""Tiny random models of every family, as transformers models and as ours.

Their norm gains and biases are random and their weights large, so that attention is far from uniform, logits spread
over several units, and a mistake in any part shows. Windows and soft caps are small enough to matter.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from subcircuit.model import (
    AttentionWeights,
    LayerNorm,
    LayerWeights,
    MLPWeights,
    NoNorm,
    NormWeights,
    Transformer,
    TransformerConfig,
    Weights,
    check_weights,
    load_model,
)
from subcircuit.model.weights import MixtureWeights, map_tensors

VOCAB = 61
CONTEXT = 32
_WIDE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
_GPT2: dict[str, Any] = {"vocab_size": VOCAB, "n_embd": 32, "n_inner": 48, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT} | {
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_SHARED_KEYS = _WIDE | {"num_key_value_heads": 2}
_GROUPED = _SHARED_KEYS | {"head_dim": 12}
_EXPERTS = {"num_experts_per_tok": 2, "experts_implementation": "eager"}
_SPARSE = _EXPERTS | {"num_experts": 4, "moe_intermediate_size": 20}
_CAPPED = {"query_pre_attn_scalar": 10, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0}
_ALTERNATING = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}

# config class, model class, settings
_HF: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "gpt2": (GPT2Config, GPT2LMHeadModel, _GPT2),
    "pythia": (GPTNeoXConfig, GPTNeoXForCausalLM, _WIDE | {"rotary_pct": 0.5, "use_parallel_residual": True}),
    "neox_sequential": (GPTNeoXConfig, GPTNeoXForCausalLM, _WIDE | {"rotary_pct": 1.0, "use_parallel_residual": False}),
    "llama": (LlamaConfig, LlamaForCausalLM, _WIDE | {"attention_bias": True, "mlp_bias": True}),
    "llama_gqa": (LlamaConfig, LlamaForCausalLM, _GROUPED | {"tie_word_embeddings": True}),
    "mistral": (MistralConfig, MistralForCausalLM, _GROUPED | {"sliding_window": 4}),
    "qwen2": (
        Qwen2Config,
        Qwen2ForCausalLM,
        _SHARED_KEYS | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, _GROUPED),
    "mixtral": (MixtralConfig, MixtralForCausalLM, _GROUPED | _EXPERTS | {"num_local_experts": 4, "intermediate_size": 20}),
    "qwen2_moe": (
        Qwen2MoeConfig,
        Qwen2MoeForCausalLM,
        _SHARED_KEYS | _SPARSE | {"shared_expert_intermediate_size": 12, "mlp_only_layers": [1]},
    ),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM, _GROUPED | _SPARSE | {"norm_topk_prob": True, "decoder_sparse_step": 2}),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, _GROUPED | _CAPPED | {"sliding_window": 4}),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, _GROUPED | _ALTERNATING | {"sliding_window": 4}),
}

HF_FAMILIES: tuple[str, ...] = tuple(_HF)
# the layers of qwen2_moe are all that those of the other two families with experts are
FAMILIES: tuple[str, ...] = (
    *(f for f in HF_FAMILIES if f not in ("mixtral", "qwen3_moe")),
    "attention_only",
    "attention_only_bare",
    "bidirectional",
)


def tiny_hf(family: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """A tiny random transformers model of a family that transformers has, with ``changes`` to its config."""
    make_config, make_model, settings = _HF[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = randomised(make_model(make_config(attn_implementation="eager", **settings | changes)))
    torch.nn.Module.to(model, dtype)
    return model


def config_class(family: str) -> Any:
    """transformers' class of a family's configs."""
    return _HF[family][0]


def randomised(model: PreTrainedModel) -> PreTrainedModel:
    """``model`` with every parameter drawn anew from torch's generator, in evaluation mode."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_random(name, parameter))
        model.tie_weights()
    return model.eval()


def _random(name: str, like: Tensor) -> Tensor:
    noise = torch.randn(like.shape)
    if "q_norm" in name or "k_norm" in name:
        return 0.5 * noise + 1.5
    if "norm" in name or ".ln_" in name:
        # Gemma adds 1 when it runs, so its stored gains scatter around 0; 0.5 ± 0.4 suits both conventions
        return 0.4 * noise + (0.0 if name.endswith("bias") else 0.5)
    if like.ndim == 1:
        return 0.5 * noise
    if "embed" in name or "wte" in name or "wpe" in name or "lm_head" in name:
        return 0.6 * noise
    # queries and keys larger than the rest: attention patterns are to differ from uniform ones
    sharpness = 2.5 if any(part in name for part in ("q_proj.w", "k_proj.w", "query_key_value", "c_attn")) else 1.2
    return noise * sharpness / 32**0.5


def tiny(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Transformer:
    """A tiny random model of any of ``FAMILIES``, as ours; its weights are the caller's to change."""
    model, copies = _loaded(family, seed, dtype), {}
    # tensors that are shared stay shared
    return replace(model, weights=map_tensors(model.weights, lambda tensor: copies.setdefault(id(tensor), tensor.clone())))


def narrow(model: Transformer, neurons: int = 5) -> Transformer:
    """A model with only the first few neurons of its MLPs, so that each of them can be a node."""

    def cut(w: MLPWeights | MixtureWeights | None) -> MLPWeights | None:
        if w is None:
            return None
        assert isinstance(w, MLPWeights)
        first = {name: getattr(w, name) for name in ("W_in", "W_out", "W_gate", "b_in", "b_gate")}
        return replace(w, **{name: None if tensor is None else tensor[:neurons] for name, tensor in first.items()})

    layers = tuple(replace(layer, mlp=cut(layer.mlp)) for layer in model.weights.layers)
    config = replace(model.config, d_mlp=neurons if model.config.d_mlp else 0)
    return replace(model, config=config, weights=replace(model.weights, layers=layers))


@cache
def _loaded(family: str, seed: int, dtype: torch.dtype) -> Transformer:
    if family in _HF:
        return replace(load_model(tiny_hf(family, seed), dtype=dtype, device="cpu"), name=f"tiny-{family}")
    if family == "bidirectional":
        return bidirectional(seed).to(dtype=dtype)
    return attention_only(seed, bare=family == "attention_only_bare").to(dtype=dtype)


def attention_only(seed: int = 0, bare: bool = False) -> Transformer:
    """Two layers of attention without MLPs; GPT-2's norms and learned positions, or neither where ``bare``."""
    n_layers, n_heads, d_model, d_head = 2, 4, 32, 8
    config = TransformerConfig(
        architecture="attention_only",
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_model=d_model,
        d_head=d_head,
        d_mlp=0,
        vocab=VOCAB,
        context=CONTEXT,
        norm=NoNorm() if bare else LayerNorm(1e-5),
        activation="relu",
        gated=False,
        learned_positions=not bare,
        rotary=(None,) * n_layers,
        windows=(None,) * n_layers,
        attention_scale=d_head**-0.5,
    )
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    def norm() -> NormWeights:
        return NormWeights() if bare else NormWeights(random(d_model, scale=0.4) + 1.0, random(d_model, scale=0.4))

    def layer() -> LayerWeights:
        heads = AttentionWeights(
            W_Q=random(n_heads, d_head, d_model, scale=0.4),
            W_K=random(n_heads, d_head, d_model, scale=0.4),
            W_V=random(n_heads, d_head, d_model, scale=0.2),
            W_O=random(n_heads, d_head, d_model, scale=0.2),
            b_Q=random(n_heads, d_head, scale=0.5),
            b_K=random(n_heads, d_head, scale=0.5),
            b_V=random(n_heads, d_head, scale=0.5),
            b_O=random(d_model, scale=0.5),
        )
        return LayerWeights(heads, norm())

    weights = Weights(
        W_E=random(VOCAB, d_model, scale=0.8),
        layers=tuple(layer() for _ in range(n_layers)),
        final_norm=norm(),
        W_U=random(VOCAB, d_model, scale=0.5),
        W_pos=None if bare else random(CONTEXT, d_model, scale=0.5),
        b_U=random(VOCAB, scale=0.5),
    )
    check_weights(config, weights)
    return Transformer(config, weights, name="tiny-attention_only_bare" if bare else "tiny-attention_only")


def bidirectional(seed: int = 0) -> Transformer:
    """Two layers that attend both ways, with MLPs and learned positions, without norms: the kind that RASP compiles to."""
    base, d_mlp = attention_only(seed), 40
    config = replace(base.config, architecture="bidirectional", norm=NoNorm(), causal=False, d_mlp=d_mlp)
    generator = torch.Generator().manual_seed(seed + 1)

    def random(*shape: int, scale: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    def layer(weights: LayerWeights) -> LayerWeights:
        mlp = MLPWeights(
            W_in=random(d_mlp, config.d_model, scale=0.15),
            W_out=random(d_mlp, config.d_model, scale=0.1),
            b_in=random(d_mlp, scale=0.5),
            b_out=random(config.d_model, scale=0.5),
        )
        return LayerWeights(weights.attention, NormWeights(), mlp, NormWeights())

    layers = tuple(layer(weights) for weights in base.weights.layers)
    # smaller logits than with a final norm: probabilities are not to be certain
    weights = replace(base.weights, layers=layers, final_norm=NormWeights(), W_U=base.weights.W_U * 0.3)
    check_weights(config, weights)
    return Transformer(config, weights, name="tiny-bidirectional")
