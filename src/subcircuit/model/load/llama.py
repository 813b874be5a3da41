"""The Llama family: Llama, SmolLM2, Mistral, Qwen2 and Qwen3, and with experts Mixtral, Qwen2-MoE and Qwen3-MoE.

RMS norms, rotary positions, gated MLPs, grouped-query attention. Members differ in biases, windows, per-head norms, and
in layers whose MLP is a mixture of experts. A config may contain fields of other members, which transformers ignores and
which are not read here: ``MEMBERS`` lists each member's own fields.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedConfig

from subcircuit.model.config import Experts, RMSNorm, TransformerConfig
from subcircuit.model.load.config_fields import (
    activation,
    check_heads,
    no_windows,
    one_window,
    refuse,
    rotary,
    windows_by_type,
)
from subcircuit.model.tensor_map import Family, StoredTensor, TensorMap, linear


@dataclass(frozen=True)
class Member:
    """The settings of one member of the family.

    Args:
        windows: the attention window of each layer.
        input_bias: queries, keys and values have biases: always, never, or by a field of the config.
        output_bias: the output map of attention has one.
        mlp_bias: the maps of MLPs have them.
        qk_norms: queries and keys are normalised per head.
    """

    windows: Callable[[PreTrainedConfig], tuple[int | None, ...]]
    input_bias: bool | str = False
    output_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norms: bool = False


MEMBERS: dict[str, Member] = {
    "llama": Member(no_windows, "attention_bias", "attention_bias", "mlp_bias"),
    "mistral": Member(one_window),
    "mixtral": Member(one_window),
    "qwen2": Member(windows_by_type, input_bias=True),
    "qwen2_moe": Member(windows_by_type, input_bias="qkv_bias"),
    "qwen3": Member(windows_by_type, "attention_bias", "attention_bias", qk_norms=True),
    "qwen3_moe": Member(one_window, "attention_bias", "attention_bias", qk_norms=True),
}

_OUTSIDE = (
    StoredTensor("embed_tokens.weight", ("W_E",)),
    StoredTensor("norm.weight", ("final_norm.gain",)),
    StoredTensor("lm_head.weight", ("W_U",)),
)
_NORMS = (
    StoredTensor("input_layernorm.weight", ("attention_norm.gain",)),
    StoredTensor("self_attn.q_norm.weight", ("attention.q_norm",)),
    StoredTensor("self_attn.k_norm.weight", ("attention.k_norm",)),
    StoredTensor("post_attention_layernorm.weight", ("mlp_norm.gain",)),
)
# files hold each expert's matrices; transformers, once it has loaded them, keeps all experts of a layer in two tensors
_ALL_EXPERTS = (
    StoredTensor("mlp.gate.weight", ("mlp.W_router",)),
    StoredTensor("mlp.experts.gate_up_proj", ("mlp.experts.{expert}.W_gate", "mlp.experts.{expert}.W_in"), optional=True),
    StoredTensor("mlp.experts.down_proj", ("mlp.experts.{expert}.W_out",), transposed=True, optional=True),
    StoredTensor("mlp.shared_expert.up_proj.weight", ("mlp.shared.W_in",)),
    StoredTensor("mlp.shared_expert.gate_proj.weight", ("mlp.shared.W_gate",)),
    StoredTensor("mlp.shared_expert.down_proj.weight", ("mlp.shared.W_out",), transposed=True),
    StoredTensor("mlp.shared_expert_gate.weight", ("mlp.W_shared",)),
)
_EACH_EXPERT = (
    StoredTensor("mlp.experts.{expert}.up_proj.weight", ("mlp.experts.{expert}.W_in",)),
    StoredTensor("mlp.experts.{expert}.gate_proj.weight", ("mlp.experts.{expert}.W_gate",)),
    StoredTensor("mlp.experts.{expert}.down_proj.weight", ("mlp.experts.{expert}.W_out",), transposed=True),
)
# Mixtral's files have other names
_MIXTRAL_NAMES = (
    (r"\.block_sparse_moe\.", ".mlp."),
    (r"\.w3\.weight$", ".up_proj.weight"),
    (r"\.w1\.weight$", ".gate_proj.weight"),
    (r"\.w2\.weight$", ".down_proj.weight"),
)


def _map(member: Member) -> TensorMap:
    attention = (
        *linear("self_attn.q_proj", "attention.{}_Q", member.input_bias),
        *linear("self_attn.k_proj", "attention.{}_K", member.input_bias),
        *linear("self_attn.v_proj", "attention.{}_V", member.input_bias),
        *linear("self_attn.o_proj", "attention.{}_O", member.output_bias, transposed=True),
    )
    mlp = (
        *linear("mlp.up_proj", "mlp.{}_in", member.mlp_bias),
        *linear("mlp.gate_proj", "mlp.{}_gate", member.mlp_bias),
        *linear("mlp.down_proj", "mlp.{}_out", member.mlp_bias, transposed=True),
    )
    return TensorMap(
        prefix="model.",
        tensors=_OUTSIDE,
        layer="layers.{layer}.",
        per_layer=(*_NORMS, *attention, *mlp, *_ALL_EXPERTS, *_EACH_EXPERT),
        ignored=r"rotary_emb\.inv_freq$",
        aliases=_MIXTRAL_NAMES,
    )


def _config(config: PreTrainedConfig, member: Member) -> TransformerConfig:
    check_heads(config)
    # every member's attention has the width of this field, also where the config class does not name it
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return TransformerConfig(
        architecture=config.model_type,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        d_model=config.hidden_size,
        d_head=d_head,
        d_mlp=config.intermediate_size,
        vocab=config.vocab_size,
        context=config.max_position_embeddings,
        norm=RMSNorm(config.rms_norm_eps),
        activation=activation(config, "hidden_act"),
        gated=True,
        learned_positions=False,
        rotary=(rotary(config),) * config.num_hidden_layers,
        windows=member.windows(config),
        attention_scale=d_head**-0.5,
        qk_norms=member.qk_norms,
        experts=_experts(config),
    )


def _experts(config: PreTrainedConfig) -> Experts | None:
    """The experts of a config; None if every layer has a plain MLP.

    Raises:
        UnsupportedModelError: the number of chosen experts is 0 or exceeds the number of experts.
    """
    match config.model_type:
        case "mixtral":
            n, d_mlp, normalised = config.num_local_experts, config.intermediate_size, True
            layers = tuple(range(config.num_hidden_layers))
        case "qwen2_moe" | "qwen3_moe":
            n, d_mlp, normalised = config.num_experts, config.moe_intermediate_size, bool(config.norm_topk_prob)
            layers = _sparse_layers(config)
        case _:
            return None
    if not n or not layers:
        return None
    if not 1 <= config.num_experts_per_tok <= n:
        raise refuse(config, "num_experts_per_tok", config.num_experts_per_tok, f"is not between 1 and the {n} experts")
    d_shared = config.shared_expert_intermediate_size if config.model_type == "qwen2_moe" else 0
    return Experts(n, config.num_experts_per_tok, d_mlp, normalised, layers, d_shared)


def _sparse_layers(config: PreTrainedConfig) -> tuple[int, ...]:
    step, plain = config.decoder_sparse_step, config.mlp_only_layers or ()
    return tuple(layer for layer in range(config.num_hidden_layers) if layer not in plain and (layer + 1) % step == 0)


LLAMA = tuple(Family(name, partial(_config, member=member), _map(member)) for name, member in MEMBERS.items())
