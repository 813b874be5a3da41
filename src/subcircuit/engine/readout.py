"""The parts of the logits that a metric needs, computed from the last residual stream.

The unembedding is the largest matrix of a small model. A logit difference needs only a few of its rows. The divergence
KL(p || q) from a fixed distribution p needs two numbers. The log-normaliser of the logits z uses all logits but stores
none. The mean of z under p is one dot product with p's mean row of the unembedding (without a soft cap on the logits):

    KL(p || softmax z) = log Σ exp z  −  Σ p z  −  H(p),        Σ p z = x · (p W_U) + p · b_U

Cost of the normaliser: one pass over the unembedding in pieces whose logits fit in the processor's cache. Exponentials and
sums then cost a tenth of the matrix product, and nothing of size rows × vocabulary is stored.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable
from weakref import ReferenceType, ref

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.model.components import normalize, soft_cap, unembed
from subcircuit.model.transformer import Transformer

# 8 MB in float32: half of it is 4 % faster on idle cores, and slower on busy ones, where every step waits for all threads
_LOGITS_AT_ONCE = 2**21
_FEWEST_TOKENS = 512  # narrower matrix products lose more than the cache gains


@dataclass(frozen=True, eq=False)
class Needs:
    """The readouts of the logits that a metric needs.

    Args:
        columns: ids of tokens whose logits are needed.
        normalizer: log of the sum of exponentials over the vocabulary.
        mixture: a fixed distribution per answer, under which the mean of the logits is needed.
        logits: all logits as they are.
    """

    columns: Int[Tensor, " column"] | None = None
    normalizer: bool = False
    mixture: Float[Tensor, "answer vocab"] | None = None
    logits: bool = False
    _directions: dict[int, tuple[ReferenceType[Tensor], Tensor]] = field(default_factory=dict, init=False, repr=False)

    def direction(self, W_U: Float[Tensor, "vocab d_model"]) -> Float[Tensor, "answer d_model"]:
        """The mixture's mean row of the unembedding in float64, computed once per unembedding and cached."""
        assert self.mixture is not None
        known = self._directions.get(id(W_U))
        if known is None or known[0]() is not W_U:
            known = self._directions[id(W_U)] = ref(W_U), _mean_row(self.mixture, W_U)
        return known[1]


@dataclass(frozen=True, eq=False)
class Readout:
    """The requested readouts; the others are None. Normalisers and mixtures are float64, logits are in the model's dtype."""

    columns: Float[Tensor, "*trial answer column"] | None = None
    normalizer: Float[Tensor, "*trial answer"] | None = None
    mixture: Float[Tensor, "*trial answer"] | None = None
    logits: Float[Tensor, "*trial answer vocab"] | None = None


@runtime_checkable
class BoundMetric(Protocol):
    """A metric tied to the answers of one batch, and to the model's own logits where it compares with them."""

    @property
    def needs(self) -> Needs:
        """The readouts that the metric needs."""
        ...

    def __call__(self, readout: Readout) -> Float[Tensor, "*trial answer"]:
        """Loss-like value per answer in float64; a larger value is a worse circuit."""
        ...


def read(model: Transformer, stream: Float[Tensor, "*trial answer d_model"], needs: Needs) -> Readout:
    """The readouts in ``needs``, at the answers' rows of the last residual stream.

    The result is differentiable if the stream is; gradients then pass through all logits of the rows, which are stored.

    Args:
        model: whose final norm and unembedding to use.
        stream: the residual stream before the final norm, one row per answer, for any number of trials.
        needs: the readouts to compute.
    """
    if needs.logits or (stream.requires_grad and torch.is_grad_enabled()):
        return readout_of(unembed(model.config, model.weights, stream), needs)
    columns = None if needs.columns is None else unembed(model.config, model.weights, stream, needs.columns)
    x = normalize(stream, model.config.norm, model.weights.final_norm)
    if needs.mixture is not None and model.config.logit_softcap is not None:
        normalizer, mixture = _sweep(model, x, needs.mixture)
        return Readout(columns, normalizer if needs.normalizer else None, mixture)
    normalizer = _sweep(model, x, None)[0] if needs.normalizer else None
    return Readout(columns, normalizer, None if needs.mixture is None else _linear_mixture(model, x, needs))


def readout_of(logits: Float[Tensor, "*trial answer vocab"], needs: Needs) -> Readout:
    """The readouts in ``needs``, from stored logits: the plain definition that `read` must equal."""
    return Readout(
        None if needs.columns is None else logits[..., needs.columns],
        logits.double().logsumexp(-1) if needs.normalizer else None,
        None if needs.mixture is None else torch.linalg.vecdot(logits.double(), needs.mixture.double()),
        logits if needs.logits else None,
    )


def _mean_row(mixture: Float[Tensor, "answer vocab"], W_U: Float[Tensor, "vocab d_model"]) -> Float[Tensor, "answer d_model"]:
    # in pieces: a float64 copy of a large unembedding would take gigabytes
    total = torch.zeros(len(mixture), W_U.shape[1], dtype=torch.float64, device=W_U.device)
    for start in range(0, len(W_U), 4096):
        total += mixture[:, start : start + 4096].double() @ W_U[start : start + 4096].double()
    return total


def _linear_mixture(
    model: Transformer, x: Float[Tensor, "*trial answer d_model"], needs: Needs
) -> Float[Tensor, "*trial answer"]:
    assert needs.mixture is not None
    mean = torch.linalg.vecdot(x.double(), needs.direction(model.weights.W_U))
    return mean if model.weights.b_U is None else mean + needs.mixture.double() @ model.weights.b_U.double()


@torch.no_grad()
def _sweep(
    model: Transformer, x: Float[Tensor, "*trial answer d_model"], mixture: Float[Tensor, "answer vocab"] | None
) -> tuple[Float[Tensor, "*trial answer"], Float[Tensor, "*trial answer"]]:
    """Normalisers of normalised rows, and their mean logits under ``mixture`` (zeros if None), in one pass over the vocabulary."""
    rows = x.flatten(0, -2)
    normalizer, mean = _accumulate(model, rows, mixture, None)
    if normalizer.isinf().any():
        greatest = torch.stack([logits.amax(0) for _, logits in _logits_in_pieces(model, rows)]).amax(0)
        normalizer, mean = _accumulate(model, rows, mixture, greatest)
    return normalizer.view(x.shape[:-1]), mean.view(x.shape[:-1])


def _accumulate(
    model: Transformer,
    x: Float[Tensor, "row d_model"],
    mixture: Float[Tensor, "answer vocab"] | None,
    shift: Float[Tensor, " row"] | None,
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """The result of `_sweep`, with pieces summed in the logits' dtype (at least float32) and their sums added in float64.

    Args:
        x: rows of the answers, trial after trial.
        shift: a value near each row's largest logit. None uses the largest logit of the first piece, which saves a pass over
            the others. Normalisers are then infinite where a later logit is so much larger (by 88) that its exponential overflows.
    """
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    mean = torch.zeros_like(total)
    for tokens, logits in _logits_in_pieces(model, x):
        if mixture is not None:
            by_answer = logits.double().unflatten(1, (-1, len(mixture)))
            mean += torch.linalg.vecdot(by_answer, mixture[:, None, tokens].double().permute(2, 1, 0), dim=0).flatten()
        shift = logits.amax(0) if shift is None else shift
        total += logits.sub_(shift).exp_().sum(0)
    assert shift is not None
    return total.log() + shift, mean


def _logits_in_pieces(model: Transformer, x: Float[Tensor, "row d_model"]) -> Iterator[tuple[slice, Float[Tensor, "column row"]]]:
    """Logits of all tokens, a few thousand tokens at a time; each piece is overwritten by the next.

    Tokens are the rows because this orientation of the matrix product is faster, and sums over tokens then read contiguous
    memory.
    """
    W_U, b_U = model.weights.W_U, model.weights.b_U
    size = min(max(_LOGITS_AT_ONCE // len(x), _FEWEST_TOKENS), len(W_U))
    buffer = x.new_empty(size, len(x))
    for start in range(0, len(W_U), size):
        tokens = slice(start, min(start + size, len(W_U)))
        logits = torch.mm(W_U[tokens], x.T, out=buffer[: tokens.stop - start])
        logits = logits if b_U is None else logits.add_(b_U[tokens, None])
        logits = soft_cap(logits, model.config.logit_softcap)
        # half-precision exponentials would overflow and their sums lose everything small
        yield tokens, logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
