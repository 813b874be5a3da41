"""A decoder's tensors, frozen and checked against its config.

Projections are stored with the head axis first and the residual stream last, so that row ``W_Q[h, i]`` is what one
query dimension reads and row ``W_O[h, i]`` or ``W_out[i]`` is what one head dimension or neuron writes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from hashlib import sha256
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.errors import ModelError
from subcircuit.model.config import TransformerConfig


@dataclass(frozen=True, slots=True)
class NormWeights:
    """Gain and bias of a norm; either may be absent."""

    gain: Float[Tensor, " d_model"] | None = None
    bias: Float[Tensor, " d_model"] | None = None


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """One layer's attention. ``b_O`` belongs to no head: it goes with the layer's output."""

    W_Q: Float[Tensor, "head d_head d_model"]
    W_K: Float[Tensor, "kv_head d_head d_model"]
    W_V: Float[Tensor, "kv_head d_head d_model"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_Q: Float[Tensor, "head d_head"] | None = None
    b_K: Float[Tensor, "kv_head d_head"] | None = None
    b_V: Float[Tensor, "kv_head d_head"] | None = None
    b_O: Float[Tensor, " d_model"] | None = None
    q_norm: Float[Tensor, " d_head"] | None = None
    k_norm: Float[Tensor, " d_head"] | None = None


@dataclass(frozen=True, slots=True)
class MLPWeights:
    """One layer's MLP: neuron i reads ``W_in[i]`` (times its gate ``W_gate[i]``) and writes ``W_out[i]``."""

    W_in: Float[Tensor, "d_mlp d_model"]
    W_out: Float[Tensor, "d_mlp d_model"]
    W_gate: Float[Tensor, "d_mlp d_model"] | None = None
    b_in: Float[Tensor, " d_mlp"] | None = None
    b_gate: Float[Tensor, " d_mlp"] | None = None
    b_out: Float[Tensor, " d_model"] | None = None


@dataclass(frozen=True, slots=True)
class MixtureWeights:
    """One layer's mixture of experts: expert e's logit is ``W_router[e]`` · input.

    ``shared`` is the expert of every position, whose output is scaled by the logistic of ``W_shared`` · input.
    """

    W_router: Float[Tensor, "expert d_model"]
    experts: tuple[MLPWeights, ...]
    shared: MLPWeights | None = None
    W_shared: Float[Tensor, " d_model"] | None = None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One block: norms that read the stream, the two sublayers, and norms on what they write (sandwich norms)."""

    attention: AttentionWeights
    attention_norm: NormWeights
    mlp: MLPWeights | MixtureWeights | None = None
    mlp_norm: NormWeights | None = None
    attention_post_norm: NormWeights | None = None
    mlp_post_norm: NormWeights | None = None


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """Layers that may be kept on other devices than the one that computes: see ``placement.py``.

    Asked for a layer by its index, or for one after the other, it gives them on that device; the last one is kept there.

    Args:
        kept: the layers where they are kept.
        home: the device that computes.
    """

    kept: tuple[LayerWeights, ...]
    home: torch.device
    _last: dict[int, LayerWeights] = field(default_factory=dict[int, LayerWeights], repr=False)

    def __len__(self) -> int:
        return len(self.kept)

    def __iter__(self) -> Iterator[LayerWeights]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> LayerWeights:
        layer = range(len(self.kept))[index]
        if layer not in self._last:
            # the one before goes first, as there may be room for one only
            self._last.clear()
            self._last[layer] = map_tensors(self.kept[layer], lambda tensor: tensor.to(self.home))
        return self._last[layer]


@dataclass(frozen=True, slots=True)
class Weights:
    """The whole decoder. With tied embeddings ``W_U`` is ``W_E`` itself."""

    W_E: Float[Tensor, "vocab d_model"]
    layers: tuple[LayerWeights, ...] | Elsewhere
    final_norm: NormWeights
    W_U: Float[Tensor, "vocab d_model"]
    W_pos: Float[Tensor, "context d_model"] | None = None
    b_U: Float[Tensor, " vocab"] | None = None

    def __repr__(self) -> str:
        return f"Weights({len(self.layers)} layers, {tuple(self.W_E.shape)} embedding, {self.W_E.dtype} on {self.W_E.device})"

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Weights":
        """The same weights on another device, all of them, or in another dtype; tensors that are shared stay shared."""
        moved = self.map(lambda tensor: tensor.to(device=device, dtype=dtype))
        return replace(moved, layers=moved.layers.kept) if device is not None and isinstance(moved.layers, Elsewhere) else moved

    def map(self, function: Callable[[Tensor], Tensor]) -> "Weights":
        """The weights with ``function`` applied to every tensor, once to those that are shared."""
        done: dict[int, Tensor] = {}

        def once(tensor: Tensor) -> Tensor:
            if id(tensor) not in done:
                done[id(tensor)] = function(tensor)
            return done[id(tensor)]

        return map_tensors(self, once)


def map_tensors(value: Any, function: Any) -> Any:
    """``value`` with ``function`` applied to every tensor in its nested dataclasses and tuples."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(map_tensors(item, function) for item in value)
    if isinstance(value, Elsewhere):
        return Elsewhere(map_tensors(value.kept, function), value.home)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: map_tensors(getattr(value, f.name), function) for f in fields(value)})
    return value


def named_tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dataclasses and tuples, with a dotted name such as ``layers.3.attention.W_Q``."""
    value = value.kept if isinstance(value, Elsewhere) else value
    if isinstance(value, Tensor):
        yield prefix, value
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from named_tensors(item, f"{prefix}.{index}")
    elif is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            yield from named_tensors(getattr(value, f.name), f"{prefix}.{f.name}".lstrip("."))


def weights_of_names(tensors: Mapping[str, Tensor]) -> Weights:
    """The weights whose tensors have these dotted names: the inverse of `named_tensors`."""
    return _nested(Weights, tensors)


_PARTS: dict[str, Any] = {
    "layers": LayerWeights,
    "attention": AttentionWeights,
    "experts": MLPWeights,
    "shared": MLPWeights,
    **dict.fromkeys(("final_norm", "attention_norm", "mlp_norm", "attention_post_norm", "mlp_post_norm"), NormWeights),
}


def _nested(kind: Any, tensors: Mapping[str, Tensor]) -> Any:
    grouped: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        first, _, rest = name.partition(".")
        grouped.setdefault(first, {})[rest] = tensor
    if "0" in grouped:
        return tuple(_nested(kind, grouped[str(number)]) for number in range(len(grouped)))
    mlp = MixtureWeights if "W_router" in grouped.get("mlp", {}) else MLPWeights
    made: dict[str, Any] = {
        name: rest[""] if "" in rest else _nested((_PARTS | {"mlp": mlp})[name], rest) for name, rest in grouped.items()
    }
    # norms without gain and bias have no tensors
    read: dict[Any, list[str]] = {
        Weights: ["final_norm"],
        LayerWeights: ["attention_norm", *(["mlp_norm"] if "mlp" in made else [])],
    }
    empty: dict[str, Any] = {"layers": ()} if kind is Weights else {}
    found: dict[str, Any] = {**empty, **dict.fromkeys(read.get(kind, []), NormWeights()), **made}
    return kind(**found)


def digest_of_weights(weights: Weights) -> str:
    """SHA-256 of every tensor's name and bytes, in the dtype that it has."""
    digest = sha256()
    for name, tensor in named_tensors(weights):
        digest.update(name.encode())
        # as bytes: numpy has no bfloat16
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_weights(config: TransformerConfig, weights: Weights) -> None:
    """Compare every tensor's shape with the config.

    Raises:
        ModelError: names the first tensor whose shape is not the one the config asks for.
    """
    if len(weights.layers) != config.n_layers:
        raise ModelError(f"the config has {config.n_layers} layers, the weights have {len(weights.layers)}")
    _check_mixtures(config, weights)
    for name, tensor in named_tensors(weights):
        expected = shape_of(config, name)
        if tuple(tensor.shape) != expected:
            raise ModelError(f"weight {name} has shape {tuple(tensor.shape)}; the config requires {expected}")


def _check_mixtures(config: TransformerConfig, weights: Weights) -> None:
    for number, layer in enumerate(weights.layers):
        found = len(layer.mlp.experts) if isinstance(layer.mlp, MixtureWeights) else 0
        expected = config.experts.n if config.experts is not None and number in config.experts.layers else 0
        if found != expected:
            raise ModelError(f"the config has {expected} experts in layer {number}, the weights have {found}")


def shape_of(c: TransformerConfig, name: str) -> tuple[int, ...]:
    """The shape that the config asks for, of the tensor with this dotted name."""
    d_mlp = c.d_mlp
    if c.experts is not None and ".mlp.experts." in name:
        d_mlp = c.experts.d_mlp
    elif c.experts is not None and ".mlp.shared." in name:
        d_mlp = c.experts.d_shared
    return {
        "W_E": (c.vocab, c.d_model),
        "W_U": (c.vocab, c.d_model),
        "W_pos": (c.context, c.d_model),
        "b_U": (c.vocab,),
        "W_Q": (c.n_heads, c.d_head, c.d_model),
        "W_K": (c.n_kv_heads, c.d_head, c.d_model),
        "W_V": (c.n_kv_heads, c.d_head, c.d_model),
        "W_O": (c.n_heads, c.d_head, c.d_model),
        "b_Q": (c.n_heads, c.d_head),
        "b_K": (c.n_kv_heads, c.d_head),
        "b_V": (c.n_kv_heads, c.d_head),
        "b_O": (c.d_model,),
        "q_norm": (c.d_head,),
        "k_norm": (c.d_head,),
        "W_in": (d_mlp, c.d_model),
        "W_gate": (d_mlp, c.d_model),
        "W_out": (d_mlp, c.d_model),
        "b_in": (d_mlp,),
        "b_gate": (d_mlp,),
        "b_out": (c.d_model,),
        "W_router": (0 if c.experts is None else c.experts.n, c.d_model),
        "W_shared": (c.d_model,),
        "gain": (c.d_model,),
        "bias": (c.d_model,),
    }[name.rsplit(".", 1)[-1]]
