"""Switches of transformers configs that families share: rotary positions, activations, windows, and refusals."""

from copy import deepcopy
from typing import Any

from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from subcircuit.errors import ModelError, UnsupportedModelError
from subcircuit.model.config import Activation, Rotary

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

# those whose frequencies do not depend on the prompt's length
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


def refuse(config: PreTrainedConfig, field: str, value: Any, why: str = "is not implemented") -> UnsupportedModelError:
    """The error for one unsupported field of a config."""
    return UnsupportedModelError(f"{config.model_type}: {field} = {value!r} {why}")


def require(config: PreTrainedConfig, field: str, *allowed: Any) -> None:
    """Refuse the model unless a config field has one of the allowed values; an absent field counts as None.

    Raises:
        UnsupportedModelError: names the field and its value.
    """
    value = getattr(config, field, None)
    if value not in allowed:
        raise refuse(config, field, value)


def check_heads(config: PreTrainedConfig) -> None:
    """Refuse numbers of heads that cannot share keys and values.

    Raises:
        ModelError: gives the numbers.
    """
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    if heads < 1 or shared < 1 or heads % shared:
        raise ModelError(f"{config.model_type}: {heads} attention heads are not a multiple of {shared} key/value heads")


def activation(config: PreTrainedConfig, field: str) -> Activation:
    """The MLP's nonlinearity.

    Raises:
        UnsupportedModelError: names the field when it is one that is not implemented.
    """
    name = getattr(config, field)
    if name not in ACTIVATIONS:
        raise refuse(config, field, name, f"is not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def rotary(config: PreTrainedConfig, layer_type: str | None = None, partial: bool = False) -> Rotary:
    """Rotary frequencies and scaling as transformers computes them.

    Args:
        config: with ``rope_parameters``.
        layer_type: which of several rope settings, for families that have one per layer type.
        partial: the family may rotate only the first dimensions of a head.

    Raises:
        UnsupportedModelError: the rope type's frequencies depend on the prompt's length, or it is unknown.
    """
    config = deepcopy(config)  # transformers' functions write to it
    per_type: dict[str, Any] = config.rope_parameters
    parameters = per_type if layer_type is None else per_type[layer_type]
    kind = parameters.get("rope_type", "default")
    if kind not in ROPE_TYPES:
        raise refuse(config, "rope_parameters.rope_type", kind, f"is not one of {', '.join(ROPE_TYPES)}")
    if kind == "default" and not partial:
        parameters["partial_rotary_factor"] = 1.0  # transformers ignores it where nothing else is scaled
    if not partial and parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise refuse(config, "rope_parameters.partial_rotary_factor", parameters["partial_rotary_factor"])
    if kind == "default":
        # the default lives in each model's own module, seconds to import; linear scaling by 1 is the same numbers
        kind = "linear"
        parameters.update(rope_type="linear", factor=1.0)
    inverse_frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](config, "cpu", layer_type=layer_type)
    return Rotary(tuple(inverse_frequencies.tolist()), float(scaling))


def no_windows(config: PreTrainedConfig) -> tuple[None, ...]:
    """Every layer sees everything: the family has no windows, whatever its config holds."""
    return (None,) * config.num_hidden_layers


def one_window(config: PreTrainedConfig) -> tuple[int | None, ...]:
    """The same window for every layer; ``layer_types`` are not the family's.

    Raises:
        UnsupportedModelError: the window is not a positive number.
    """
    window = config.sliding_window
    return (None if window is None else _window(config),) * config.num_hidden_layers


def windows_by_type(config: PreTrainedConfig) -> tuple[int | None, ...]:
    """The window of each layer, from ``layer_types``.

    Raises:
        UnsupportedModelError: a layer type other than full or sliding attention, or a window that is not a positive number.
    """
    for kind in config.layer_types:
        if kind not in ("full_attention", "sliding_attention"):
            raise refuse(config, "layer_types", kind)
    return tuple(_window(config) if kind == "sliding_attention" else None for kind in config.layer_types)


def _window(config: PreTrainedConfig) -> int:
    window = config.sliding_window
    if not isinstance(window, int) or window < 1:
        raise refuse(config, "sliding_window", window, "is not a window: it must be a positive number of tokens")
    return window


def check_common(config: PreTrainedConfig) -> None:
    """Refuse fields that change what any family computes in transformers, though no config class names them.

    Raises:
        UnsupportedModelError: names the field.
    """
    if config.is_heterogeneous:
        raise refuse(
            config, "per_layer_config", sorted(config.per_layer_attributes or ()), "(settings by layer) is not implemented"
        )
    if not getattr(config, "is_causal", True):
        raise refuse(config, "is_causal", config.is_causal, "(attention to later tokens) is not implemented")
