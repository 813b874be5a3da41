"""Checkpoint families: conversion of a transformers config and its tensors to our config and weights."""

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedConfig

from subcircuit.errors import ModelError, UnsupportedModelError
from subcircuit.model.config import TransformerConfig
from subcircuit.model.load.config_fields import check_common, refuse
from subcircuit.model.load.gemma import GEMMA
from subcircuit.model.load.gpt2 import GPT2
from subcircuit.model.load.gpt_neox import GPT_NEOX
from subcircuit.model.load.llama import LLAMA
from subcircuit.model.load.transformers_calls import first_line
from subcircuit.model.tensor_map import Family
from subcircuit.model.weights import Weights, check_weights

FAMILIES: dict[str, Family] = {family.architecture: family for family in (*GEMMA, GPT2, GPT_NEOX, *LLAMA)}


def architectures() -> tuple[str, ...]:
    """The supported values of ``model_type`` in a checkpoint's config."""
    return tuple(FAMILIES)


def family_of(model_type: object, own: Family | None = None) -> Family:
    """The family of this ``model_type``.

    Args:
        model_type: the value of this name in a config, of any type.
        own: the caller's family, before the built-in ones.

    Raises:
        UnsupportedModelError: lists the supported ones.
    """
    families = (*FAMILIES.values(), *([] if own is None else [own]))
    found = next((family for family in reversed(families) if family.architecture == model_type), None)
    if found is None:
        supported = ", ".join(family.architecture for family in families)
        raise UnsupportedModelError(f"architecture {model_type!r} is not supported; supported are {supported}")
    return found


def read_model(
    config: PreTrainedConfig, tensors: Mapping[str, Tensor], family: Family | None = None
) -> tuple[TransformerConfig, Weights]:
    """Our config and weights from a checkpoint's, in the dtype the checkpoint has.

    Args:
        family: None is the built-in family of the config's ``model_type``.

    Raises:
        UnsupportedModelError: the architecture, or a setting of its config, is not implemented.
        ModelError: no model can be built from the config, or tensors are missing, unused or of the wrong shape.
    """
    family = family or family_of(config.model_type)
    if getattr(config, "quantization_config", None) is not None:
        raise refuse(config, "quantization_config", config.quantization_config, "(quantised weights) is not implemented")
    check_common(config)
    try:
        ours = family.config(config)
        weights = family.tensor_map.read(ours, config, tensors)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        # a config may contain anything: impossible numbers, and names instead of numbers
        raise ModelError(f"{config.model_type}: no model can be built from the config: {first_line(error)}") from error
    check_weights(ours, weights)
    return ours, weights
