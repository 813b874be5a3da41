"""Checkpoint families: from a transformers config and its tensors to ours."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor
from transformers import PreTrainedConfig

from subcircuit.errors import ModelError, UnsupportedModelError
from subcircuit.model.config import TransformerConfig
from subcircuit.model.load.features import check_common, refuse
from subcircuit.model.load.gemma import read_gemma
from subcircuit.model.load.gpt2 import read_gpt2
from subcircuit.model.load.gpt_neox import read_gpt_neox
from subcircuit.model.load.llama import read_llama
from subcircuit.model.load.quiet import first_line
from subcircuit.model.weights import Weights, check_weights

ReadFamily: TypeAlias = Callable[[PreTrainedConfig, Mapping[str, Tensor]], tuple[TransformerConfig, Weights]]

FAMILIES: dict[str, ReadFamily] = {
    "gemma2": read_gemma,
    "gemma3_text": read_gemma,
    "gpt2": read_gpt2,
    "gpt_neox": read_gpt_neox,
    "llama": read_llama,
    "mistral": read_llama,
    "mixtral": read_llama,
    "qwen2": read_llama,
    "qwen2_moe": read_llama,
    "qwen3": read_llama,
    "qwen3_moe": read_llama,
}

# each head has keys and values of its own, whatever the config says of sharing them
_UNGROUPED = ("gpt2", "gpt_neox")


def architectures() -> tuple[str, ...]:
    """The supported values of ``model_type`` in a checkpoint's config."""
    return tuple(FAMILIES)


def check_architecture(model_type: object) -> None:
    """Refuse a ``model_type`` that no family reads.

    Raises:
        UnsupportedModelError: lists the supported ones.
    """
    if model_type not in tuple(FAMILIES):  # a tuple, for a config may hold anything here, also what has no hash
        raise UnsupportedModelError(f"architecture {model_type!r} is not supported; supported are {', '.join(FAMILIES)}")


def read_model(config: PreTrainedConfig, tensors: Mapping[str, Tensor]) -> tuple[TransformerConfig, Weights]:
    """Our config and weights from a checkpoint's, in the dtype the checkpoint has.

    Raises:
        UnsupportedModelError: the architecture, or something its config asks for, is not implemented.
        ModelError: the config describes no model; tensors are missing, left over or of the wrong shape.
    """
    check_architecture(config.model_type)
    if getattr(config, "quantization_config", None) is not None:
        raise refuse(config, "quantization_config", config.quantization_config, "(quantised weights) is not implemented")
    check_common(config)
    try:
        _check_heads(config)
        ours, weights = FAMILIES[config.model_type](config, tensors)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        # a config may hold anything: numbers no model has, and names instead of numbers
        raise ModelError(f"{config.model_type}: the config describes no model: {first_line(error)}") from error
    check_weights(ours, weights)
    return ours, weights


def _check_heads(config: PreTrainedConfig) -> None:
    heads = config.num_attention_heads
    shared = heads if config.model_type in _UNGROUPED else config.num_key_value_heads
    if heads < 1 or shared < 1 or heads % shared:
        raise ModelError(f"{config.model_type}: {heads} attention heads cannot share {shared} heads of keys and values")
