"""GPT-NeoX (Pythia): layer norms, partial rotary positions, attention and MLP side by side or after each other."""

from transformers import PreTrainedConfig

from subcircuit.model.config import LayerNorm, TransformerConfig
from subcircuit.model.load.config_fields import activation, rotary
from subcircuit.model.tensor_map import Family, StoredTensor, TensorMap, linear

_BIASED = "attention_bias"
_MAP = TensorMap(
    prefix="gpt_neox.",
    tensors=(
        StoredTensor("embed_in.weight", ("W_E",)),
        StoredTensor("final_layer_norm.weight", ("final_norm.gain",)),
        StoredTensor("final_layer_norm.bias", ("final_norm.bias",)),
        StoredTensor("embed_out.weight", ("W_U",)),
    ),
    layer="layers.{layer}.",
    per_layer=(
        StoredTensor("input_layernorm.weight", ("attention_norm.gain",)),
        StoredTensor("input_layernorm.bias", ("attention_norm.bias",)),
        StoredTensor("attention.query_key_value.weight", ("attention.W_Q", "attention.W_K", "attention.W_V"), by_head=True),
        StoredTensor(
            "attention.query_key_value.bias", ("attention.b_Q", "attention.b_K", "attention.b_V"), by_head=True, switch=_BIASED
        ),
        *linear("attention.dense", "attention.{}_O", _BIASED, transposed=True),
        StoredTensor("post_attention_layernorm.weight", ("mlp_norm.gain",)),
        StoredTensor("post_attention_layernorm.bias", ("mlp_norm.bias",)),
        *linear("mlp.dense_h_to_4h", "mlp.{}_in", True),
        *linear("mlp.dense_4h_to_h", "mlp.{}_out", True, transposed=True),
    ),
    ignored=r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$",
    aliases=((r"^lm_head\.", "embed_out."),),
)


def _config(config: PreTrainedConfig) -> TransformerConfig:
    d_head = config.hidden_size // config.num_attention_heads
    return TransformerConfig(
        architecture="gpt_neox",
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_attention_heads,
        d_model=config.hidden_size,
        d_head=d_head,
        d_mlp=config.intermediate_size,
        vocab=config.vocab_size,
        context=config.max_position_embeddings,
        norm=LayerNorm(config.layer_norm_eps),
        activation=activation(config, "hidden_act"),
        gated=False,
        learned_positions=False,
        rotary=(rotary(config, partial=True),) * config.num_hidden_layers,
        windows=(None,) * config.num_hidden_layers,
        attention_scale=d_head**-0.5,
        parallel=config.use_parallel_residual,
    )


GPT_NEOX = Family("gpt_neox", _config, _MAP)
