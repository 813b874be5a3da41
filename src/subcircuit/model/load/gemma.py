"""Gemma 2 and the text models of Gemma 3.

Norms before and after each sublayer, scaled embeddings, windows on some layers, soft caps (Gemma 2), per-head norms
and a rotary setting per layer type (Gemma 3). Gains are stored as g and used as 1 + g; the sum is formed when reading.
"""

from transformers import PreTrainedConfig

from subcircuit.model.config import RMSNorm, Rotary, TransformerConfig
from subcircuit.model.load.config_fields import activation, check_heads, require, rotary, windows_by_type
from subcircuit.model.tensor_map import Family, StoredTensor, TensorMap, linear

_MAP = TensorMap(
    prefix="model.",
    tensors=(
        StoredTensor("embed_tokens.weight", ("W_E",)),
        StoredTensor("norm.weight", ("final_norm.gain",), offset=1.0),
        StoredTensor("lm_head.weight", ("W_U",)),
    ),
    layer="layers.{layer}.",
    per_layer=(
        StoredTensor("input_layernorm.weight", ("attention_norm.gain",), offset=1.0),
        *linear("self_attn.q_proj", "attention.{}_Q", "attention_bias"),
        *linear("self_attn.k_proj", "attention.{}_K", "attention_bias"),
        *linear("self_attn.v_proj", "attention.{}_V", "attention_bias"),
        *linear("self_attn.o_proj", "attention.{}_O", "attention_bias", transposed=True),
        StoredTensor("self_attn.q_norm.weight", ("attention.q_norm",), offset=1.0),
        StoredTensor("self_attn.k_norm.weight", ("attention.k_norm",), offset=1.0),
        StoredTensor("post_attention_layernorm.weight", ("attention_post_norm.gain",), offset=1.0),
        StoredTensor("pre_feedforward_layernorm.weight", ("mlp_norm.gain",), offset=1.0),
        StoredTensor("mlp.up_proj.weight", ("mlp.W_in",)),
        StoredTensor("mlp.gate_proj.weight", ("mlp.W_gate",)),
        StoredTensor("mlp.down_proj.weight", ("mlp.W_out",), transposed=True),
        StoredTensor("post_feedforward_layernorm.weight", ("mlp_post_norm.gain",), offset=1.0),
    ),
    ignored=r"rotary_emb\.inv_freq$",
)


def _config(config: PreTrainedConfig) -> TransformerConfig:
    require(config, "use_bidirectional_attention", False, None)
    check_heads(config)
    gemma3 = config.model_type == "gemma3_text"
    return TransformerConfig(
        architecture=config.model_type,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        d_model=config.hidden_size,
        d_head=config.head_dim,
        d_mlp=config.intermediate_size,
        vocab=config.vocab_size,
        context=config.max_position_embeddings,
        norm=RMSNorm(config.rms_norm_eps),
        activation=activation(config, "hidden_activation"),
        gated=True,
        learned_positions=False,
        rotary=_rotary(config) if gemma3 else (rotary(config),) * config.num_hidden_layers,
        windows=windows_by_type(config),
        attention_scale=config.query_pre_attn_scalar**-0.5,
        post_norms=True,
        qk_norms=gemma3,
        attention_softcap=None if gemma3 else config.attn_logit_softcapping,  # Gemma 3 has the field and does not apply it
        logit_softcap=config.final_logit_softcapping,
        embed_scale=config.hidden_size**0.5,
    )


def _rotary(config: PreTrainedConfig) -> tuple[Rotary, ...]:
    of_type = {kind: rotary(config, kind) for kind in set(config.layer_types)}
    return tuple(of_type[kind] for kind in config.layer_types)


GEMMA = tuple(Family(name, _config, _MAP) for name in ("gemma2", "gemma3_text"))
