"""Gemma 2 and the text models of Gemma 3.

Norms before and after each sublayer, scaled embeddings, windows on some layers, soft caps (Gemma 2), per-head norms
and a rotary setting per layer type (Gemma 3). Gains are stored as g and used as 1 + g; the sum is formed here.
"""

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedConfig

from subcircuit.model.config import RMSNorm, Rotary, TransformerConfig
from subcircuit.model.load.features import activation, require, rotary, windows_by_type
from subcircuit.model.load.state import State, by_head, output_by_head, transposed, unembedding
from subcircuit.model.weights import AttentionWeights, LayerWeights, MLPWeights, NormWeights, Weights


def read_gemma(config: PreTrainedConfig, tensors: Mapping[str, Tensor]) -> tuple[TransformerConfig, Weights]:
    """A Gemma 2 or Gemma 3 (text) language model.

    Raises:
        UnsupportedModelError: a config field asks for what is not implemented.
        ModelError: a tensor is missing, or some are left over.
    """
    ours = _config(config)
    state = State(tensors, "model.", r"rotary_emb\.inv_freq$")
    W_E = state["embed_tokens.weight"]
    weights = Weights(
        W_E=W_E,
        layers=tuple(_layer(state, f"layers.{layer}.", ours, config.attention_bias) for layer in range(ours.n_layers)),
        final_norm=NormWeights(_gain(state["norm.weight"])),
        W_U=unembedding(state, W_E, config.tie_word_embeddings, ("lm_head.weight",)),
    )
    state.finish()
    return ours, weights


def _config(config: PreTrainedConfig) -> TransformerConfig:
    require(config, "use_bidirectional_attention", False, None)
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


def _layer(state: State, at: str, c: TransformerConfig, biased: bool) -> LayerWeights:
    return LayerWeights(
        attention=_attention(state, at + "self_attn.", c, biased),
        attention_norm=NormWeights(_gain(state[at + "input_layernorm.weight"])),
        mlp=MLPWeights(
            W_in=state[at + "mlp.up_proj.weight"],
            W_gate=state[at + "mlp.gate_proj.weight"],
            W_out=transposed(state[at + "mlp.down_proj.weight"]),
        ),
        mlp_norm=NormWeights(_gain(state[at + "pre_feedforward_layernorm.weight"])),
        attention_post_norm=NormWeights(_gain(state[at + "post_attention_layernorm.weight"])),
        mlp_post_norm=NormWeights(_gain(state[at + "post_feedforward_layernorm.weight"])),
    )


def _attention(state: State, at: str, c: TransformerConfig, biased: bool) -> AttentionWeights:
    return AttentionWeights(
        W_Q=by_head(state[at + "q_proj.weight"], c.n_heads),
        W_K=by_head(state[at + "k_proj.weight"], c.n_kv_heads),
        W_V=by_head(state[at + "v_proj.weight"], c.n_kv_heads),
        W_O=output_by_head(state[at + "o_proj.weight"], c.n_heads),
        b_Q=by_head(state[at + "q_proj.bias"], c.n_heads) if biased else None,
        b_K=by_head(state[at + "k_proj.bias"], c.n_kv_heads) if biased else None,
        b_V=by_head(state[at + "v_proj.bias"], c.n_kv_heads) if biased else None,
        b_O=state[at + "o_proj.bias"] if biased else None,
        q_norm=_gain(state[at + "q_norm.weight"]) if c.qk_norms else None,
        k_norm=_gain(state[at + "k_norm.weight"]) if c.qk_norms else None,
    )


def _gain(stored: Tensor) -> Tensor:
    # in bfloat16 the sum would lose the small g; the caller casts the result
    return 1.0 + (stored if stored.element_size() >= 4 else stored.float())
