"""GPT-2: layer norms, learned positions, fused query/key/value maps stored as (in, out)."""

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedConfig

from subcircuit.model.config import LayerNorm, TransformerConfig
from subcircuit.model.load.features import activation, require
from subcircuit.model.load.state import State, by_head, transposed, unembedding
from subcircuit.model.weights import AttentionWeights, LayerWeights, MLPWeights, NormWeights, Weights


def read_gpt2(config: PreTrainedConfig, tensors: Mapping[str, Tensor]) -> tuple[TransformerConfig, Weights]:
    """A GPT-2 language model.

    Raises:
        UnsupportedModelError: a config field asks for what is not implemented.
        ModelError: a tensor is missing, or some are left over.
    """
    ours = _config(config)
    # attn.bias and attn.masked_bias are the causal mask, which old checkpoints hold
    state = State(tensors, "transformer.", r"\.attn\.(bias|masked_bias)$")
    W_E = state["wte.weight"]
    weights = Weights(
        W_E=W_E,
        W_pos=state["wpe.weight"],
        layers=tuple(_layer(state, f"h.{layer}.", ours, _divisor(config, layer)) for layer in range(ours.n_layers)),
        final_norm=_norm(state, "ln_f"),
        W_U=unembedding(state, W_E, config.tie_word_embeddings, ("lm_head.weight",)),
    )
    state.finish()
    return ours, weights


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


def _divisor(config: PreTrainedConfig, layer: int) -> int:
    """By which a layer's attention scores are divided beside the root of the head's width."""
    return layer + 1 if config.scale_attn_by_inverse_layer_idx else 1


def _layer(state: State, at: str, c: TransformerConfig, divisor: int) -> LayerWeights:
    # one map for queries, keys and values, in this order, each by head
    W = _thirds(transposed(state[at + "attn.c_attn.weight"]), c)
    b = _thirds(state[at + "attn.c_attn.bias"], c)
    return LayerWeights(
        attention=AttentionWeights(
            # scores are linear in queries: what they are divided by can be taken from the queries' map
            W_Q=W[0] / divisor if divisor > 1 else W[0],
            W_K=W[1],
            W_V=W[2],
            W_O=by_head(state[at + "attn.c_proj.weight"], c.n_heads),
            b_Q=b[0] / divisor if divisor > 1 else b[0],
            b_K=b[1],
            b_V=b[2],
            b_O=state[at + "attn.c_proj.bias"],
        ),
        attention_norm=_norm(state, at + "ln_1"),
        mlp=MLPWeights(
            W_in=transposed(state[at + "mlp.c_fc.weight"]),
            W_out=state[at + "mlp.c_proj.weight"],
            b_in=state[at + "mlp.c_fc.bias"],
            b_out=state[at + "mlp.c_proj.bias"],
        ),
        mlp_norm=_norm(state, at + "ln_2"),
    )


def _thirds(tensor: Tensor, c: TransformerConfig) -> list[Tensor]:
    width = c.n_heads * c.d_head
    return [by_head(tensor[i * width : (i + 1) * width], c.n_heads) for i in range(3)]


def _norm(state: State, name: str) -> NormWeights:
    return NormWeights(state[name + ".weight"], state[name + ".bias"])
