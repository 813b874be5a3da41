"""GPT-2: layer norms, learned positions, fused query/key/value maps, matrices stored as (in, out)."""

from transformers import PreTrainedConfig

from subcircuit.model.config import LayerNorm, TransformerConfig
from subcircuit.model.load.config_fields import activation, require
from subcircuit.model.tensor_map import Family, StoredTensor, TensorMap, linear

_MAP = TensorMap(
    prefix="transformer.",
    tensors=(
        StoredTensor("wte.weight", ("W_E",)),
        StoredTensor("wpe.weight", ("W_pos",)),
        StoredTensor("ln_f.weight", ("final_norm.gain",)),
        StoredTensor("ln_f.bias", ("final_norm.bias",)),
        StoredTensor("lm_head.weight", ("W_U",)),
    ),
    layer="h.{layer}.",
    per_layer=(
        StoredTensor("ln_1.weight", ("attention_norm.gain",)),
        StoredTensor("ln_1.bias", ("attention_norm.bias",)),
        StoredTensor("attn.c_attn.weight", ("attention.W_Q", "attention.W_K", "attention.W_V"), transposed=True),
        StoredTensor("attn.c_attn.bias", ("attention.b_Q", "attention.b_K", "attention.b_V")),
        *linear("attn.c_proj", "attention.{}_O", True),
        StoredTensor("ln_2.weight", ("mlp_norm.gain",)),
        StoredTensor("ln_2.bias", ("mlp_norm.bias",)),
        *linear("mlp.c_fc", "mlp.{}_in", True, transposed=True),
        *linear("mlp.c_proj", "mlp.{}_out", True),
    ),
    # the causal mask, which old checkpoints hold
    ignored=r"\.attn\.(bias|masked_bias)$",
    queries_divided="scale_attn_by_inverse_layer_idx",
)


def _config(config: PreTrainedConfig) -> TransformerConfig:
    require(config, "add_cross_attention", False, None)
    d_head = config.n_embd // config.n_head
    return TransformerConfig(
        architecture="gpt2",
        n_layers=config.n_layer,
        n_heads=config.n_head,
        n_kv_heads=config.n_head,
        d_model=config.n_embd,
        d_head=d_head,
        d_mlp=4 * config.n_embd if config.n_inner is None else config.n_inner,
        vocab=config.vocab_size,
        context=config.n_positions,
        norm=LayerNorm(config.layer_norm_epsilon),
        activation=activation(config, "activation_function"),
        gated=False,
        learned_positions=True,
        rotary=(None,) * config.n_layer,
        windows=(None,) * config.n_layer,
        attention_scale=d_head**-0.5 if config.scale_attn_weights else 1.0,
    )


GPT2 = Family("gpt2", _config, _MAP)
