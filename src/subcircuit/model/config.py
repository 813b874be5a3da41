"""The config of a transformer: all settings of its forward pass, as one frozen value."""

from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Literal, TypeAlias

Activation: TypeAlias = Literal["gelu", "gelu_tanh", "relu", "silu"]
HeadPart: TypeAlias = Literal["q", "k", "v"]


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Mean and variance normalised (Ba et al. 2016, arXiv 1607.06450)."""

    eps: float


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """Root mean square normalised (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    eps: float


@dataclass(frozen=True, slots=True)
class NoNorm:
    """The residual stream is read as it is."""


Norm: TypeAlias = LayerNorm | RMSNorm | NoNorm


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864) on the first ``2 * len(inverse_frequencies)`` dimensions of a head.

    The two halves of those dimensions rotate against each other (the Hugging Face layout).

    Args:
        inverse_frequencies: radians per position, one per rotated pair, any context scaling already applied.
        scaling: factor on cosine and sine (1 but for YaRN-like scalings).
    """

    inverse_frequencies: tuple[float, ...]
    scaling: float = 1.0


@dataclass(frozen=True, slots=True)
class Experts:
    """Mixture-of-experts MLPs: a router sends each position to a few of many small MLPs (Shazeer et al. 2017, arXiv 1701.06538).

    Args:
        n: experts per layer.
        top: how many of them a position is routed to.
        d_mlp: neurons of one expert.
        normalised: the chosen experts' shares are scaled to sum to 1; otherwise they are their probabilities among all.
        layers: those whose MLP is such a mixture; the others have a plain one.
        d_shared: neurons of an expert that every position goes through, behind a gate of its own (Qwen2-MoE); 0 for none.
    """

    n: int
    top: int
    d_mlp: int
    normalised: bool
    layers: tuple[int, ...]
    d_shared: int = 0

    def __post_init__(self) -> None:
        assert 1 <= self.top <= self.n, (self.top, self.n)


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """A transformer's shape and switches.

    Args:
        architecture: the checkpoint family's name, for messages and records (``"llama"``).
        n_layers, n_heads, n_kv_heads, d_model, d_head, vocab: sizes. ``n_heads`` is a multiple of ``n_kv_heads``.
        d_mlp: neurons per layer; 0 for attention-only models.
        context: the longest prompt, in tokens.
        norm: how readers normalise the residual stream; gains of ``1 + g`` are folded when loading.
        activation: of the MLP.
        gated: the MLP multiplies its activation by a second projection.
        learned_positions: a learned vector per position is added to the embedding.
        rotary: one per layer, or None for layers without rotary positions.
        windows: one per layer: a query sees this many latest positions, itself included; None sees all.
        attention_scale: factor on query · key.
        parallel: attention and MLP of a layer read the same stream (GPT-NeoX).
        post_norms: attention's and MLP's outputs are normalised before they are added (Gemma 2 and 3).
        qk_norms: queries and keys are RMS-normalised per head (Qwen3, Gemma 3); eps is ``norm``'s.
        attention_softcap, logit_softcap: c in c·tanh(x / c), or None.
        embed_scale: factor on token embeddings.
        causal: a query sees no later position. Otherwise it sees the whole prompt, and prompts that run together must be
            of one length.
        experts: of mixture-of-experts models; None where every MLP is a plain one.
    """

    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    vocab: int
    context: int
    norm: Norm
    activation: Activation
    gated: bool
    learned_positions: bool
    rotary: tuple[Rotary | None, ...]
    windows: tuple[int | None, ...]
    attention_scale: float
    parallel: bool = False
    post_norms: bool = False
    qk_norms: bool = False
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embed_scale: float = 1.0
    causal: bool = True
    experts: Experts | None = None

    def __post_init__(self) -> None:
        assert self.n_heads % self.n_kv_heads == 0, (self.n_heads, self.n_kv_heads)
        assert len(self.rotary) == len(self.windows) == self.n_layers
        assert self.experts is None or set(self.experts.layers) <= set(range(self.n_layers))
        assert self.experts is None or not self.post_norms, "an expert's share of a post-norm is not defined"
        assert self.causal or not any(self.windows), "a window is over latest positions"

    @property
    def heads_per_kv(self) -> int:
        """Query heads that share one key/value head."""
        return self.n_heads // self.n_kv_heads

    @property
    def digest(self) -> str:
        """A short hash of every field: two models with the same digest have the same computational graph."""
        # a field of a later version counts only if it is set, so that older recorded digests stay valid
        said = (f for f in fields(self) if not (f.name == "experts" and self.experts is None))
        text = f"TransformerConfig({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in said)})"
        return sha256(text.encode()).hexdigest()[:16]
