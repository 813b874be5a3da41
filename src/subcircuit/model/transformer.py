"""A model: config, weights and tokenizer, with the plain forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.entry import default_modes
from subcircuit.errors import PromptError
from subcircuit.model.components import (
    AS_IT_IS,
    Nonlinear,
    embed,
    mixture,
    mlp,
    unembed,
)
from subcircuit.model.config import TransformerConfig
from subcircuit.model.placement import DeviceShare, spread_weights
from subcircuit.model.tensor_map import Family
from subcircuit.model.tokens import Tokens, Vocabulary, digest_of_tokenizer
from subcircuit.model.weights import MixtureWeights, Weights, digest_of_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Transformer:
    """A transformer: data, run by pure functions.

    Args:
        config: shape and switches.
        weights: tensors; their device and dtype are the model's.
        tokenizer: None for models that are fed token ids only.
        name: the name under which it was loaded; for a path only its last part.
        revision: commit of the checkpoint if it came from a hub, else a digest of its files.
        folder: folder of the checkpoint, in the Hugging Face layout; None for models without one. Not recorded.
        origin: the variant and the weights behind a short name, in words; None if the name is unambiguous.
        family: family of the checkpoint; None for models without one. Not recorded.
    """

    config: TransformerConfig
    weights: Weights
    tokenizer: "PreTrainedTokenizerBase | None" = None
    name: str = "model"
    revision: str | None = None
    folder: Path | None = None
    origin: str | None = None
    family: Family | None = None

    def __repr__(self) -> str:
        c, dtype = self.config, str(self.dtype).removeprefix("torch.")
        sizes = f"{c.n_layers} layers of {c.n_heads} heads, width {c.d_model}, {c.vocab:,} tokens"
        return f"Transformer({self.name}: {c.architecture}, {sizes}, {dtype} on {self.device})"

    @property
    def device(self) -> torch.device:
        """The device of all computation."""
        return self.weights.W_E.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype, in which everything is computed."""
        return self.weights.W_E.dtype

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of its token ids."""
        return Vocabulary(self.name, digest_of_tokenizer(self.tokenizer), self.config.vocab)

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 of its weights in the dtype that they have."""
        return digest_of_weights(self.weights)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Transformer":
        """The same model elsewhere or in another dtype."""
        return replace(self, weights=self.weights.to(device, dtype))

    def spread(self, shares: Sequence[DeviceShare], dtype: torch.dtype | None = None) -> "Transformer":
        """The same model with layers kept on several devices, the first of which computes.

        Raises:
            SettingsError: there are not as many layers.
        """
        return replace(self, weights=spread_weights(self.weights, shares, dtype))

    @default_modes()
    def __call__(self, tokens: Tokens) -> Float[Tensor, "batch pos vocab"]:
        """Logits at every position; meaningless past a prompt's end.

        Raises:
            PromptError: prompts of unequal lengths in a model that is not causal.
        """
        return unembed(self.config, self.weights, self.stream(tokens))

    @default_modes()
    def stream(self, tokens: Tokens) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream after the last layer, before the final norm.

        Raises:
            PromptError: as above.
        """
        check_lengths(self.config, tokens)
        stream = embed(self.config, self.weights, tokens.ids)
        for layer in range(self.config.n_layers):
            stream = block(self, layer, stream)
        return stream


def check_lengths(config: TransformerConfig, tokens: Tokens) -> None:
    """Refuse a batch of prompts of unequal lengths in a model that would attend to padding.

    Raises:
        PromptError: the lengths are unequal and the model is not causal.
    """
    if not config.causal and bool((tokens.lengths != tokens.ids.shape[1]).any()):
        raise PromptError(
            f"prompts of {int(tokens.lengths.min())} to {tokens.ids.shape[1]} tokens cannot run in one batch: this model attends to "
            "later positions, so padding would change its results. Use prompts of one length."
        )


def block(model: Transformer, layer: int, stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
    """One layer: attention and MLP, after each other or side by side."""
    from subcircuit.model.attention import attention

    attended = stream + attention(model, layer, stream)
    if model.config.d_mlp == 0:
        return attended
    return attended + feed_forward(model, layer, stream if model.config.parallel else attended)


def feed_forward(
    model: Transformer, layer: int, stream: Float[Tensor, "*rows d_model"], nonlinear: Nonlinear = AS_IT_IS
) -> Float[Tensor, "*rows d_model"]:
    """The output of one layer's MLP, plain or a mixture of experts, as added to the stream."""
    config, weights = model.config, model.weights.layers[layer]
    assert weights.mlp is not None and weights.mlp_norm is not None
    x = nonlinear.norm(stream, config.norm, weights.mlp_norm)
    match weights.mlp:
        case MixtureWeights() as experts:
            written = mixture(config, experts, x, nonlinear)
        case plain:
            written = mlp(config, plain, x, nonlinear)
    return written if weights.mlp_post_norm is None else nonlinear.norm(written, config.norm, weights.mlp_post_norm)
