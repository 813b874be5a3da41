"""Reading a checkpoint's tensors by name, so that nothing is missed and nothing is left over."""

import re
from collections.abc import Mapping
from difflib import get_close_matches

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.errors import ModelError


class State:
    """A checkpoint's tensors; remembers which were read.

    Args:
        tensors: by name.
        prefix: of the decoder's tensors, such as ``"model."``; some checkpoints leave it out, so it is optional.
        ignored: a regular expression for names that are no weights (masks and frequencies that older versions saved).
    """

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str, ignored: str):
        self._tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if not re.search(ignored, name)}
        self._unread = set(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of this name.

        Raises:
            ModelError: there is none; names those that come nearest.
        """
        if name not in self._tensors:
            near = get_close_matches(name, self._tensors, n=2)
            hint = f"; nearest are {' and '.join(near)}" if near else ""
            raise ModelError(f"the checkpoint has no tensor {name}, which its config asks for{hint}")
        self._unread.discard(name)
        return self._tensors[name]

    def finish(self) -> None:
        """Check that every tensor was read.

        Raises:
            ModelError: names those that were not.
        """
        if self._unread:
            names = sorted(self._unread)
            shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
            raise ModelError(f"the checkpoint holds {len(names)} tensors for which its config has no use: {shown}")


def by_head(tensor: Tensor, n_heads: int) -> Tensor:
    """The first axis split into (head, d_head); left as it is where it does not split, for the shape check to report."""
    return tensor if len(tensor) % n_heads else tensor.unflatten(0, (n_heads, -1))


def output_by_head(weight: Tensor, n_heads: int) -> Tensor:
    """An output projection stored as (d_model, head · d_head), turned to (head, d_head, d_model)."""
    return by_head(transposed(weight), n_heads)


def transposed(weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, "d_in d_out"]:
    """The matrix with its axes exchanged, laid out anew so that its rows are contiguous."""
    return weight.mT.contiguous()


def unembedding(state: State, W_E: Tensor, tied: bool, names: tuple[str, ...]) -> Float[Tensor, "vocab d_model"]:
    """The unembedding under one of ``names``; ``W_E`` itself where the two are tied.

    A checkpoint that says it is tied and yet holds a second, different matrix is not tied (as in transformers).
    """
    present = next((name for name in names if name in state), None)
    if present is None:
        return W_E if tied else state[names[0]]
    W_U = state[present]
    return W_E if tied and (W_U is W_E or torch.equal(W_U, W_E)) else W_U
