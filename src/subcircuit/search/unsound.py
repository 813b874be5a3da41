"""Where a model stops computing numbers: looked for only once a search has met NaN or infinity."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.errors import NumericalError
from subcircuit.model.attention import attention
from subcircuit.model.components import embed
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer, block
from subcircuit.tasks import Task


@contextmanager
def naming_the_place(model: Transformer, task: Task) -> Iterator[None]:
    """A block whose ``NumericalError`` names the layer and the pair, if it is the model itself that fails on the prompts."""
    try:
        yield
    except NumericalError as error:
        place = first_unsound(model, task)
        if place is None:
            raise
        remedy = "bfloat16 or float32: float16 ends at 65,504" if model.dtype == torch.float16 else "another copy of its weights"
        dtype = str(model.dtype).removeprefix("torch.")
        raise NumericalError(f"{model.name} computes NaN or infinity in {place}, in {dtype}: try {remedy}. ({error})") from None


@torch.no_grad()
def first_unsound(model: Transformer, task: Task) -> str | None:
    """The first part of a model, and the first pair, where a prompt makes NaN or infinity; None where none does."""
    for which, tokens in (("clean", task.clean), ("corrupted", task.corrupted)):
        stream = embed(model.config, model.weights, tokens.ids)
        parts = [("the embedding", stream)]
        for layer in range(model.config.n_layers):
            if (example := _bad(stream, tokens)) is not None:
                break
            parts = [
                (f"the attention of layer {layer}", attention(model, layer, stream)),
                (f"the MLP of layer {layer}", stream := block(model, layer, stream)),
            ]
        else:
            example = _bad(stream, tokens)
        if example is not None:
            part = next(name for name, values in parts if _bad(values, tokens) is not None)
            return f"{part} on the {which} prompt of pair {example + 1}"
    return None


def _bad(values: Float[Tensor, "batch pos d_model"], tokens: Tokens) -> int | None:
    """The first prompt with a number that is none."""
    real: Bool[Tensor, "batch pos"] = torch.arange(values.shape[1], device=values.device) < tokens.lengths[:, None]
    bad = (real & ~values.isfinite().all(-1)).any(1).nonzero().flatten().tolist()
    return bad[0] if bad else None
