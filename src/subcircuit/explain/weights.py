"""What heads would do by their weights: copying, and matching.

    copies, suppresses  the share of tokens that a head's OV circuit puts among their own top (bottom) logits, given what stands
                        for the token after the first layer (Wang et al. 2022, arXiv 2211.00593: names, top 5)
    ov copying          Σ Re λ / Σ |λ| over the eigenvalues λ of W_U W_O W_V W_E, vocabulary × vocabulary: 1 if each token raises
                        itself, −1 if each lowers itself (Elhage et al. 2021, "A mathematical framework for transformer circuits")
    qk matching         the same of W_E W_Q W_K W_E: 1 if each token attends to itself, rotary turns and norms' scales left out

Norms count with their gains alone, and biases not at all. A product A B of a tall and a wide matrix has the non-zero
eigenvalues of B A, which is d_head × d_head: no matrix of vocabulary × vocabulary is ever made.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.explain.observe import Observation
from subcircuit.model.attention import projection, write_out
from subcircuit.model.components import normalize
from subcircuit.model.transformer import Transformer
from subcircuit.model.weights import NormWeights

_MOST_TOKENS = 64


@dataclass(frozen=True)
class Mechanism:
    """A head's scores by its weights, see the module's docstring; shares from 0 to 1, eigenvalues' from −1 to 1."""

    copies: float
    suppresses: float
    ov_copying: float
    qk_matching: float


@dataclass(frozen=True, eq=False)
class Carried:
    """Tokens that heads may copy, and where the prompts have them.

    Args:
        ids: of the tokens.
        stream: what stands for each at the beginning of the first layer, and of the second.
        top: how many of the highest logits count as top.
        across, among: W_E W_U and W_E W_E, summed over the vocabulary, without gains: the same for all heads.
    """

    ids: Int[Tensor, " row"]
    stream: tuple[Float[Tensor, "row d_model"], Float[Tensor, "row d_model"]]
    top: int
    across: Float[Tensor, "d_model d_model"]
    among: Float[Tensor, "d_model d_model"]


def carried(observed: Observation, top: int) -> Carried:
    """The prompts' tokens that are answers, right or wrong; all of their tokens where none is. At most 64 of them.

    Args:
        top: how many of the highest logits count, in vocabularies of at least 20 times as many.
    """
    tokens, answers = observed.task.clean, observed.task.answers
    positions = torch.arange(tokens.ids.shape[1], device=tokens.ids.device)
    within = positions < tokens.lengths[:, None]
    options = torch.cat([answers.correct[answers.correct_mask], answers.wrong[answers.wrong_mask]])
    chosen = within & torch.isin(tokens.ids, options)
    chosen = chosen if bool(chosen.any()) else within
    # once for each token, where it comes first
    first = {int(tokens.ids[b, p]): (b, p) for b, p in reversed(chosen.nonzero().tolist())}
    places = torch.tensor(sorted(first.values())[:_MOST_TOKENS], device=tokens.ids.device)
    at, streams, config = (places[:, 0], places[:, 1]), observed.streams[0], observed.model.config
    second = streams[2 if config.d_mlp else 1]
    E, U = observed.model.weights.W_E.float(), observed.model.weights.W_U.float()
    among = E.T @ E
    across = among if U is E or torch.equal(E, U) else E.T @ U
    return Carried(tokens.ids[at], (streams[0][at], second[at]), max(1, min(top, config.vocab // 20)), across, among)


@torch.no_grad()
def mechanisms(model: Transformer, layer: int, heads: Sequence[int], tokens: Carried) -> list[Mechanism]:
    """The scores of some heads of a layer."""
    config, chosen = model.config, tuple(heads)
    w = model.weights.layers[layer]
    W_Q, W_K, W_V = (projection(model, layer, part, chosen).float() for part in ("q", "k", "v"))
    W_O = w.attention.W_O[list(chosen)].float()
    x = normalize(tokens.stream[min(layer, 1)], config.norm, w.attention_norm)
    written = write_out(model, layer, torch.stack([x @ W.T for W in projection(model, layer, "v", chosen)]), chosen)
    if w.attention_post_norm is not None:
        written = normalize(written, config.norm, w.attention_post_norm)
    gain = _gain(w.attention_norm, config.d_model, model)
    to_logits = _gain(w.attention_post_norm or NormWeights(), config.d_model, model) * _gain(
        model.weights.final_norm, config.d_model, model
    )
    across, among = gain[:, None] * tokens.across * to_logits, gain[:, None] * tokens.among * gain
    found = []
    for index in range(len(chosen)):
        logits = normalize(written[index], config.norm, model.weights.final_norm) @ model.weights.W_U.T
        ov, qk = W_V[index] @ across @ W_O[index].T, W_K[index] @ among @ W_Q[index].T
        found.append(Mechanism(_among_top(logits, tokens), _among_top(-logits, tokens), _positive(ov), _positive(qk)))
    return found


def _among_top(logits: Float[Tensor, "row vocab"], tokens: Carried) -> float:
    own = logits.gather(1, tokens.ids[:, None])
    # a head that writes nothing ties all tokens: nothing is on top then
    above = (logits > own).sum(1) + ((logits == own).sum(1) - 1)
    return float((above < tokens.top).float().mean())


def _positive(matrix: Float[Tensor, "d_head d_head"]) -> float:
    values = torch.linalg.eigvals(matrix.cpu().double())
    size = float(values.abs().sum())
    return float(values.real.sum()) / size if size > 0 else 0.0


def _gain(norm: NormWeights, d_model: int, model: Transformer) -> Float[Tensor, " d_model"]:
    return torch.ones(d_model, device=model.device) if norm.gain is None else norm.gain.float()
