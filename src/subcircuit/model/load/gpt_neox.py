"""GPT-NeoX (Pythia): layer norms, partial rotary positions, attention and MLP side by side or after each other."""

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedConfig

from subcircuit.model.config import LayerNorm, TransformerConfig
from subcircuit.model.load.features import activation, rotary
from subcircuit.model.load.state import State, by_head, output_by_head, transposed, unembedding
from subcircuit.model.weights import AttentionWeights, LayerWeights, MLPWeights, NormWeights, Weights


def read_gpt_neox(config: PreTrainedConfig, tensors: Mapping[str, Tensor]) -> tuple[TransformerConfig, Weights]:
    """A GPT-NeoX language model.

    Raises:
        UnsupportedModelError: a config field asks for what is not implemented.
        ModelError: a tensor is missing, or some are left over.
    """
    ours = _config(config)
    state = State(tensors, "gpt_neox.", r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$")
    W_E = state["embed_in.weight"]
    weights = Weights(
        W_E=W_E,
        layers=tuple(_layer(state, f"layers.{layer}.", ours, config.attention_bias) for layer in range(ours.n_layers)),
        final_norm=_norm(state, "final_layer_norm"),
        W_U=unembedding(state, W_E, config.tie_word_embeddings, ("embed_out.weight", "lm_head.weight")),
    )
    state.finish()
    return ours, weights


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


def _layer(state: State, at: str, c: TransformerConfig, biased: bool) -> LayerWeights:
    W = _thirds(state[at + "attention.query_key_value.weight"], c)
    b = _thirds(state[at + "attention.query_key_value.bias"], c) if biased else (None, None, None)
    return LayerWeights(
        attention=AttentionWeights(
            W_Q=W[0],
            W_K=W[1],
            W_V=W[2],
            W_O=output_by_head(state[at + "attention.dense.weight"], c.n_heads),
            b_Q=b[0],
            b_K=b[1],
            b_V=b[2],
            b_O=state[at + "attention.dense.bias"] if biased else None,
        ),
        attention_norm=_norm(state, at + "input_layernorm"),
        mlp=MLPWeights(
            W_in=state[at + "mlp.dense_h_to_4h.weight"],
            W_out=transposed(state[at + "mlp.dense_4h_to_h.weight"]),
            b_in=state[at + "mlp.dense_h_to_4h.bias"],
            b_out=state[at + "mlp.dense_4h_to_h.bias"],
        ),
        mlp_norm=_norm(state, at + "post_attention_layernorm"),
    )


def _thirds(tensor: Tensor, c: TransformerConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a fused map whose rows go head by head: q, k, v of head 0, then of head 1."""
    heads = by_head(tensor, c.n_heads)
    d = c.d_head
    return heads[:, :d].contiguous(), heads[:, d : 2 * d].contiguous(), heads[:, 2 * d :].contiguous()


def _norm(state: State, name: str) -> NormWeights:
    return NormWeights(state[name + ".weight"], state[name + ".bias"])
