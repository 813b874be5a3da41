"""Loading of a transformers model in memory, if its config and weights alone determine its computation.

Hooks, replaced forward passes, adapters and quantised layers change the computation of a model in memory without changing its
config or weights. One forward pass on a few tokens is therefore compared with ours: the embeddings, then every
layer, given the same hidden states as the model's own layer, then the logits. Rounding does not accumulate in this comparison, so
the bound is a few rounding steps of the model's dtype, and a difference is found in the layer that causes it:

    |ours - theirs|  <=  c · step · (|stream| + 4 |what attention and MLP add|)      for every position

It costs one forward pass on a few tokens, and one layer at a time in float32. It does not detect changes that act only on later
positions, on other tokens, or in training.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig

from subcircuit.errors import ModelError, UnsupportedModelError
from subcircuit.model.attention import attention
from subcircuit.model.components import embed, unembed
from subcircuit.model.load.families import family_of, read_model
from subcircuit.model.load.transformers_calls import reading
from subcircuit.model.tensor_map import Family
from subcircuit.model.transformer import Transformer, feed_forward
from subcircuit.model.weights import MixtureWeights, map_tensors

_TOKENS = 8
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_HALF = (torch.bfloat16, torch.float16)


def read_module(module: nn.Module, own: Family | None = None) -> Transformer:
    """Our copy of a transformers model, which is not changed.

    Args:
        own: the caller's family, before the built-in ones.

    Raises:
        ModelError: it is not a language model of transformers, has an adapter, has no weights in memory, or computes something else
            than its config and weights.
        UnsupportedModelError: it is quantised, or its architecture is not implemented.
    """
    model = _unwrapped(module)
    name = f"the {type(model).__name__} in memory"
    tensors = _tensors(model, name)
    family, copies = family_of(model.config.model_type, own), {key: tensor.detach().clone() for key, tensor in tensors.items()}
    ours = Transformer(*read_model(model.config, copies, family), family=family)
    with torch.no_grad(), torch.autocast(ours.device.type, enabled=False):
        _compare(model, ours, name)
    called = getattr(model.config, "_name_or_path", "") or type(model).__name__
    return replace(ours, name=called, revision=getattr(model.config, "_commit_hash", None))


def _unwrapped(module: Any) -> Any:
    """The transformers model inside ``DataParallel`` and ``torch.compile``."""
    while isinstance(module, nn.Module) and (inner := _inside(module)) is not None:
        if module._forward_hooks or module._forward_pre_hooks:
            raise ModelError(
                f"a {type(module).__name__} with hooks computes something else than the model inside it: give the inner model"
            )
        module = inner
    if not isinstance(module, nn.Module) or not isinstance(getattr(module, "config", None), PreTrainedConfig):
        raise ModelError(
            f"a {type(module).__name__} is not a model that can be loaded: give a name, a directory, a .gguf file, or a model from "
            "AutoModelForCausalLM.from_pretrained of transformers"
        )
    return module


def _inside(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return module.module
    # torch.compile stores the compiled module under this name
    return module._modules.get("_orig_mod")


def _tensors(model: Any, name: str) -> dict[str, Tensor]:
    """The model's tensors by name; all must be plain tensors with data.

    Raises:
        ModelError, UnsupportedModelError: the message names the first other tensor.
    """
    with reading(f"the weights of {name} cannot be read"):
        state: dict[str, Any] = model.state_dict(keep_vars=True)
    for key, tensor in state.items():
        if ".base_layer." in key or key.startswith("base_model."):
            raise ModelError(
                f"{name} has an adapter ({key}), and adapters are not loaded: merge it first with model = model.merge_and_unload(), or load "
                "the model without the adapter"
            )
        if not isinstance(tensor, Tensor):
            raise UnsupportedModelError(f"{name} is quantised ({key} is a {type(tensor).__name__}): load it without quantisation")
        if tensor.is_meta:
            raise ModelError(
                f"{name} has no weights in memory ({key} is on the meta device): load the model without offloading, or give its name or "
                "directory"
            )
        stored = f"{key} is a {type(tensor.data).__name__} of {str(tensor.dtype).removeprefix('torch.')}"
        # bool: causal masks, which old versions of transformers kept among the weights
        if type(tensor.data) is not Tensor or tensor.is_quantized or tensor.dtype not in (*_FLOATS, torch.bool):
            raise UnsupportedModelError(
                f"{name} is quantised or spread over processes ({stored}): load it as plain floating-point weights"
            )
    return state


def _compare(model: Any, ours: Transformer, name: str) -> None:
    """Refuse a model whose forward pass differs from ours.

    Raises:
        ModelError: the message names the first layer that differs.
    """
    n, vocab = min(_TOKENS, ours.config.context), ours.config.vocab
    ids = (torch.arange(n, device=ours.device)[None] * (vocab // n) + 1) % vocab
    states, logits = _run(model, ids, name)
    if len(states) != ours.config.n_layers + 1 or logits is None or logits.shape != (1, n, vocab):
        raise ModelError(
            f"{name} does not run its {ours.config.n_layers} layers one after the other and return logits of {vocab:,} tokens"
            f"{_changed(model)}. Give a causal language model as AutoModelForCausalLM.from_pretrained returns it."
        )
    if (where := _difference(ours, ids, states, logits)) is not None:
        raise ModelError(
            f"{name} computes something else than its config and weights: on {n} tokens {where}{_changed(model)}. "
            "Remove the change, or save its effect into the weights and load those."
        )


def _run(model: Any, ids: Int[Tensor, "1 pos"], name: str) -> tuple[list[Tensor], Tensor | None]:
    """The input of the model's first layer, the output of each layer, and the logits; None if it returns none."""
    states: list[Tensor] = []

    def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def after(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    with reading(f"{name} fails on a forward pass of {ids.shape[1]} tokens"), _evaluating(model):
        base = model.base_model
        layers = base.h if hasattr(base, "h") else base.layers
        hooks = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
        hooks += [layer.register_forward_hook(after) for layer in layers]
        try:
            output = model(input_ids=ids, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
    first = output[0] if isinstance(output, tuple) else output
    return states, first if isinstance(first, Tensor) else getattr(first, "logits", None)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """A block without dropout; every module's mode is restored after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _difference(ours: Transformer, ids: Int[Tensor, "1 pos"], states: list[Tensor], logits: Tensor) -> str | None:
    """The place, in words, where our forward pass first differs from another's hidden states and logits; None if it does not."""
    half = ours.dtype in _HALF
    step = _rounding_step(ours.dtype, ours.device) * (4 if half else 32)
    embedded = embed(ours.config, ours.weights, ids)
    if _parts(states[0], embedded, step * _size(embedded)):
        return "the embeddings differ"
    for number, entering in enumerate(states[:-1]):
        leaving, bound = _layer(ours, number, entering, step)
        # in half precision, the choice between two nearly equal experts can differ
        routed = half and isinstance(ours.weights.layers[number].mlp, MixtureWeights)
        if _parts(states[number + 1], leaving, bound, most=routed):
            return f"the hidden states part after layer {number} (numbered from 0)"
    final = map_tensors(ours.weights.final_norm, lambda tensor: tensor.to(ours.dtype))
    read = unembed(ours.config, replace(ours.weights, final_norm=final), states[-1].to(ours.device, ours.dtype))
    return "the logits part after the last layer" if _parts(logits, read, 2 * step * _size(read)) else None


def _layer(
    ours: Transformer, number: int, entering: Float[Tensor, "1 pos d_model"], step: float
) -> tuple[Float[Tensor, "1 pos d_model"], Float[Tensor, "1 pos"]]:
    """The output of one layer of ours, at least in float32, and a bound on its rounding error."""
    wide, layers = torch.promote_types(ours.dtype, torch.float32), list(ours.weights.layers)
    layers[number] = map_tensors(layers[number], lambda tensor: tensor.to(ours.device, wide))
    model = replace(ours, weights=replace(ours.weights, layers=tuple(layers)))
    x = entering.to(ours.device, wide)
    attended = attention(model, number, x)
    written = feed_forward(model, number, x if ours.config.parallel else x + attended)
    leaving = x + attended + written
    stream = (_size(x + attended) + _size(leaving)) / 2
    return leaving, step * (stream + 4 * (_size(attended) + _size(written)))


def _parts(theirs: Tensor, ours: Tensor, bound: Float[Tensor, "1 pos"], most: bool = False) -> bool:
    """Whether two results differ by more than the bound at a position; with ``most``, at more than half of the positions."""
    if theirs.shape != ours.shape:
        return True
    theirs = theirs.to(ours.device)
    same = _size(theirs.to(bound.dtype) - ours.to(bound.dtype)) <= bound
    # NaN on both sides counts as equal; float16 overflows where float32 does not
    both = ~_size(ours).isfinite() & ~_size(theirs).isfinite() | (theirs.dtype == torch.float16) & ~_size(theirs).isfinite()
    agreeing = (same | both).float().mean().item()
    return agreeing < (0.5 if most else 1.0)


def _size(x: Float[Tensor, "1 pos d_model"]) -> Float[Tensor, "1 pos"]:
    return x.to(torch.promote_types(x.dtype, torch.float32)).norm(dim=-1)


def _rounding_step(dtype: torch.dtype, device: torch.device) -> float:
    """The relative size of one rounding step; larger for float32 products if the device may round more."""
    x = torch.linspace(0, 400, 4096).sin().view(64, 64).to(device, dtype)
    exact = x.double().cpu() @ x.double().cpu()
    seen = ((x @ x).double().cpu() - exact).norm() / exact.norm()
    # norms and angles are float32 in any dtype
    return max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps, seen.item())


def _changed(model: nn.Module) -> str:
    """The modules with hooks or a replaced forward pass, in words."""
    found = []
    for name, module in model.named_modules():
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        # the hooks of transformers itself change nothing
        if any(not str(getattr(hook, "__module__", "")).startswith("transformers.") for hook in hooks):
            found.append(f"{name or 'the model'} has a hook")
        if "forward" in vars(module):
            found.append(f"the forward pass of {name or 'the model'} is replaced")
    return f" ({', '.join(found[:4])}{', …' if len(found) > 4 else ''})" if found else ""
