"""The Llama family: Llama, SmolLM2, Mistral, Qwen2 and Qwen3, and with experts Mixtral, Qwen2-MoE and Qwen3-MoE.

RMS norms, rotary positions, gated MLPs, grouped-query attention. Members differ in biases, windows, per-head norms, and
in layers whose MLP is a mixture of experts. A config may hold fields of other members, which transformers ignores and
which are not read here: ``MEMBERS`` says which are a member's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedConfig

from subcircuit.model.config import RMSNorm, TransformerConfig
from subcircuit.model.load.features import activation, no_windows, one_window, rotary, windows_by_type
from subcircuit.model.load.mixture import experts_of, read_mixture
from subcircuit.model.load.state import State, by_head, output_by_head, transposed, unembedding
from subcircuit.model.weights import AttentionWeights, LayerWeights, MLPWeights, NormWeights, Weights


@dataclass(frozen=True)
class Member:
    """What sets a member of the family apart.

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


def read_llama(config: PreTrainedConfig, tensors: Mapping[str, Tensor]) -> tuple[TransformerConfig, Weights]:
    """A language model of the Llama family.

    Raises:
        UnsupportedModelError: a config field asks for what is not implemented.
        ModelError: a tensor is missing, or some are left over.
    """
    ours = _config(config)
    state = State(tensors, "model.", r"rotary_emb\.inv_freq$")
    W_E = state["embed_tokens.weight"]
    weights = Weights(
        W_E=W_E,
        layers=tuple(_layer(state, layer, ours, config) for layer in range(ours.n_layers)),
        final_norm=NormWeights(state["norm.weight"]),
        W_U=unembedding(state, W_E, config.tie_word_embeddings, ("lm_head.weight",)),
    )
    state.finish()
    return ours, weights


def _config(config: PreTrainedConfig) -> TransformerConfig:
    member = MEMBERS[config.model_type]
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
        experts=experts_of(config),
    )


def _layer(state: State, layer: int, c: TransformerConfig, config: PreTrainedConfig) -> LayerWeights:
    at = f"layers.{layer}."
    experts = c.experts if c.experts is not None and layer in c.experts.layers else None
    return LayerWeights(
        attention=_attention(state, at + "self_attn.", c, config),
        attention_norm=NormWeights(state[at + "input_layernorm.weight"]),
        mlp=_mlp(state, at, config) if experts is None else read_mixture(state, at, experts),
        mlp_norm=NormWeights(state[at + "post_attention_layernorm.weight"]),
    )


def _attention(state: State, at: str, c: TransformerConfig, config: PreTrainedConfig) -> AttentionWeights:
    member = MEMBERS[config.model_type]
    biased, output_biased = _switch(config, member.input_bias), _switch(config, member.output_bias)
    return AttentionWeights(
        W_Q=by_head(state[at + "q_proj.weight"], c.n_heads),
        W_K=by_head(state[at + "k_proj.weight"], c.n_kv_heads),
        W_V=by_head(state[at + "v_proj.weight"], c.n_kv_heads),
        W_O=output_by_head(state[at + "o_proj.weight"], c.n_heads),
        b_Q=by_head(state[at + "q_proj.bias"], c.n_heads) if biased else None,
        b_K=by_head(state[at + "k_proj.bias"], c.n_kv_heads) if biased else None,
        b_V=by_head(state[at + "v_proj.bias"], c.n_kv_heads) if biased else None,
        b_O=state[at + "o_proj.bias"] if output_biased else None,
        q_norm=state[at + "q_norm.weight"] if c.qk_norms else None,
        k_norm=state[at + "k_norm.weight"] if c.qk_norms else None,
    )


def _mlp(state: State, at: str, config: PreTrainedConfig) -> MLPWeights:
    at, biased = at + "mlp.", _switch(config, MEMBERS[config.model_type].mlp_bias)
    return MLPWeights(
        W_in=state[at + "up_proj.weight"],
        W_gate=state[at + "gate_proj.weight"],
        W_out=transposed(state[at + "down_proj.weight"]),
        b_in=state[at + "up_proj.bias"] if biased else None,
        b_gate=state[at + "gate_proj.bias"] if biased else None,
        b_out=state[at + "down_proj.bias"] if biased else None,
    )


def _switch(config: PreTrainedConfig, value: bool | str) -> bool:
    """``value`` itself, or that of the config's field of this name."""
    return bool(getattr(config, value)) if isinstance(value, str) else value
