"""Attention models made of features: every feature a direction of its own, every head what it matches and what it carries.

There is no norm, and attention is sharp: scores of ``SHARP`` against 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from subcircuit.model import (
    AttentionWeights,
    LayerWeights,
    MLPWeights,
    NoNorm,
    NormWeights,
    Transformer,
    TransformerConfig,
    Weights,
    check_weights,
)

SHARP = 30.0

Pairs: TypeAlias = list[tuple[Tensor, Tensor]]
"""A direction read and a direction written; or of queries and of keys, which attend to each other."""

Head: TypeAlias = tuple[Pairs, Pairs]
"""What a head matches, and what it carries."""


@dataclass(frozen=True)
class Stream:
    """The residual stream's features, and the heads that can be made of them.

    Args:
        spaces: how many directions each kind of feature has.
    """

    spaces: dict[str, int]

    def direction(self, space: str, index: int = 0) -> Tensor:
        """The unit vector of a feature."""
        names = list(self.spaces)
        start = sum(self.spaces[name] for name in names[: names.index(space)])
        return torch.eye(sum(self.spaces.values()))[start + index]

    def match(self, query: str, key: str, back: int = 0, strength: float = SHARP) -> Pairs:
        """Attend where the key's feature is the query's (or the one ``back`` before it)."""
        count = self.spaces[query] - back
        return [(strength * self.direction(query, i + back), self.direction(key, i)) for i in range(count)]

    def carry(self, source: str, target: str, gain: float = 1.0) -> Pairs:
        """Read features in one space and write them to another."""
        return [(self.direction(source, i), gain * self.direction(target, i)) for i in range(self.spaces[source])]

    def model(
        self, name: str, embedding: Sequence[Tensor], layers: Sequence[Sequence[Head]], mlp: MLPWeights | None = None
    ) -> Transformer:
        """The mechanism's heads and one idle head per layer; the logits read ``out``.

        Args:
            embedding: a row per token.
            layers: each layer's heads, as many in every layer.
            mlp: of every layer: give one only to models of one layer.
        """
        layers = [[*heads, ([], self.carry("token", "idle"))] for heads in layers]
        d_head = max(len(pairs) for heads in layers for head in heads for pairs in head)
        W_E, W_U = torch.stack(list(embedding)), torch.zeros(len(embedding), len(embedding[0]))
        for token in range(self.spaces["out"]):
            W_U[token] = self.direction("out", token)
        config = TransformerConfig(
            architecture="planted",
            n_layers=len(layers),
            n_heads=len(layers[0]),
            n_kv_heads=len(layers[0]),
            d_model=W_E.shape[1],
            d_head=d_head,
            d_mlp=0 if mlp is None else len(mlp.W_in),
            vocab=len(W_E),
            context=self.spaces["pos"],
            norm=NoNorm(),
            activation="relu",
            gated=False,
            learned_positions=True,
            rotary=(None,) * len(layers),
            windows=(None,) * len(layers),
            attention_scale=1.0,
        )
        W_pos = torch.stack([self.direction("pos", i) for i in range(self.spaces["pos"])])
        norm = None if mlp is None else NormWeights()
        blocks = tuple(LayerWeights(_attention(heads, d_head, W_E.shape[1]), NormWeights(), mlp, norm) for heads in layers)
        weights = Weights(W_E, blocks, NormWeights(), W_U, W_pos)
        check_weights(config, weights)
        return Transformer(config, weights, name=name)


def _attention(heads: Sequence[Head], d_head: int, d_model: int) -> AttentionWeights:
    def stacked(kind: int, side: int) -> Tensor:
        rows = torch.zeros(len(heads), d_head, d_model)
        for index, head in enumerate(heads):
            for row, pair in enumerate(head[kind]):
                rows[index, row] = pair[side]
        return rows

    return AttentionWeights(W_Q=stacked(0, 0), W_K=stacked(0, 1), W_V=stacked(1, 0), W_O=stacked(1, 1))
