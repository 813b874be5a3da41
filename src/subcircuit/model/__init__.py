"""A decoder-only transformer as one value, the pure functions that run it, and how to load one."""

from subcircuit.model.config import Activation, Experts, LayerNorm, NoNorm, Norm, RMSNorm, Rotary, TransformerConfig
from subcircuit.model.load import BuiltIn, ModelListing, Shipped, architectures, load_model, models, read_model
from subcircuit.model.tensor_map import Family, StoredTensor, TensorMap
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer
from subcircuit.model.weights import (
    AttentionWeights,
    LayerWeights,
    MixtureWeights,
    MLPWeights,
    NormWeights,
    Weights,
    check_weights,
    map_tensors,
    named_tensors,
)

__all__ = [
    "Activation",
    "AttentionWeights",
    "BuiltIn",
    "Experts",
    "Family",
    "LayerNorm",
    "LayerWeights",
    "MLPWeights",
    "MixtureWeights",
    "ModelListing",
    "NoNorm",
    "Norm",
    "NormWeights",
    "RMSNorm",
    "Rotary",
    "Shipped",
    "StoredTensor",
    "TensorMap",
    "Tokens",
    "Transformer",
    "TransformerConfig",
    "Weights",
    "architectures",
    "check_weights",
    "load_model",
    "map_tensors",
    "models",
    "named_tensors",
    "read_model",
]
