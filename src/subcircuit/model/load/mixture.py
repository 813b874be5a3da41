"""Mixture-of-experts layers of Mixtral, Qwen2-MoE and Qwen3-MoE checkpoints.

Files keep each expert's matrices under names of their own; transformers, once it has loaded them, keeps all experts of a
layer in two tensors. Both are read.
"""

from torch import Tensor
from transformers import PreTrainedConfig

from subcircuit.model.config import Experts
from subcircuit.model.load.features import refuse
from subcircuit.model.load.state import State, transposed
from subcircuit.model.weights import MixtureWeights, MLPWeights

# Mixtral's files say w1, w3, w2 for what the others call gate, up, down
_MATRICES = (("w3", "w1", "w2"), ("up_proj", "gate_proj", "down_proj"))


def experts_of(config: PreTrainedConfig) -> Experts | None:
    """The experts that a config asks for; None where every layer's MLP is a plain one.

    Raises:
        UnsupportedModelError: it routes to more experts than there are, or to none.
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


def read_mixture(state: State, at: str, experts: Experts) -> MixtureWeights:
    """The mixture of one layer, whose tensors' names begin with ``at``.

    Raises:
        ModelError: a tensor is missing.
    """
    # Mixtral's files again
    here = at + "block_sparse_moe." if at + "block_sparse_moe.gate.weight" in state else at + "mlp."
    shared, W_shared = None, None
    if experts.d_shared:
        shared = _expert(state, here + "shared_expert.", _MATRICES[1])
        W_shared = state[here + "shared_expert_gate.weight"].flatten()
    return MixtureWeights(state[here + "gate.weight"], _experts(state, here + "experts.", experts.n), shared, W_shared)


def _sparse_layers(config: PreTrainedConfig) -> tuple[int, ...]:
    step, plain = config.decoder_sparse_step, config.mlp_only_layers or ()
    return tuple(layer for layer in range(config.num_hidden_layers) if layer not in plain and (layer + 1) % step == 0)


def _experts(state: State, at: str, n: int) -> tuple[MLPWeights, ...]:
    if at + "gate_up_proj" in state:
        return tuple(_slice(*both) for both in zip(state[at + "gate_up_proj"], state[at + "down_proj"], strict=False))
    names = next((names for names in _MATRICES if f"{at}0.{names[0]}.weight" in state), _MATRICES[1])
    return tuple(_expert(state, f"{at}{expert}.", names) for expert in range(n))


def _expert(state: State, at: str, names: tuple[str, str, str]) -> MLPWeights:
    W_in, W_gate, down = (state[f"{at}{name}.weight"] for name in names)
    return MLPWeights(W_in=W_in, W_gate=W_gate, W_out=transposed(down))


def _slice(gate_up: Tensor, down: Tensor) -> MLPWeights:
    W_gate, W_in = gate_up.chunk(2)
    return MLPWeights(W_in=W_in, W_gate=W_gate, W_out=transposed(down))
