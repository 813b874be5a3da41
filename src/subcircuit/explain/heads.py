"""Measurements of attention heads: attention by kind of key, backup behaviour, and scores of their weights.

Attention is summed by token role, and by the relation of a key to its query:

    previous      the token before
    same          an earlier occurrence of the query's token           (duplicate-token heads, Wang et al. 2022)
    after same    the token after an earlier occurrence                (induction heads, Olsson et al. 2022, arXiv 2209.11895)
    repeated      an earlier token that was itself a repetition    (what inhibition heads read)
    self, first   the query's own position; the prompt's first one, where heads rest
    right, wrong  a token that is one of the prompt's right, or wrong, answers

Each is the mean, over the queries that have such a key, of the attention that falls on such keys.

Backup heads are those whose direct effect grows when the heads that do the work are corrupted (Wang et al. 2022, section
3.4).

Weights alone tell whether a head copies tokens or matches them:

    copies, suppresses  the share of tokens that a head's OV circuit puts among their own top (bottom) logits, given what stands
                        for the token after the first layer (Wang et al. 2022, arXiv 2211.00593: names, top 5)
    ov copying          Σ Re λ / Σ |λ| over the eigenvalues λ of W_U W_O W_V W_E, vocabulary × vocabulary: 1 if each token raises
                        itself, −1 if each lowers itself (Elhage et al. 2021, "A mathematical framework for transformer circuits")
    qk matching         the same of W_E W_Q W_K W_E: 1 if each token attends to itself, rotary turns and norms' scales left out

Norms count with their gains alone, and biases not at all. A product A B of a tall and a wide matrix has the non-zero
eigenvalues of B A, which is d_head × d_head: no matrix of vocabulary × vocabulary is ever made.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.engine.plain_run import attention_patterns
from subcircuit.errors import SettingsError
from subcircuit.explain.observe import Observation, at_answers
from subcircuit.graph import Node
from subcircuit.model.attention import attend, projection, write_out
from subcircuit.model.components import normalize
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer, feed_forward
from subcircuit.model.weights import NormWeights
from subcircuit.tasks import Answers
from subcircuit.tasks.tokenizer import bos_prefix, ordinary_tokens

KeySets: TypeAlias = Mapping[str, Bool[Tensor, "batch query key"]]

_SHORTEST = 4  # of three tokens and fewer, too many keys are two things at once


@dataclass(frozen=True, eq=False)
class Looks:
    """Attention of all heads of a model.

    Args:
        by_role: of each layer, the mean attention from a query's role to each key's role; NaN for roles that have no query.
        at_role: of each layer, the attention of each role's queries on each kind of key, by the kind's name; NaN where no
            query has such a key.
        random: the same of ``same`` and ``after same`` in the second copy of random tokens, and of ``previous`` in both; None where the
            model is too small for them.
    """

    by_role: tuple[Float[Tensor, "head role key_role"], ...]
    at_role: tuple[Mapping[str, Float[Tensor, "head role"]], ...]
    random: tuple[Mapping[str, Float[Tensor, " head"]], ...] | None


def looks(observed: Observation, copies: int = 8, length: int = 20, seed: int = 0) -> Looks:
    """Attention of all heads on the task's prompts and on random repeated tokens.

    Args:
        copies: number of random sequences.
        length: tokens in each half of a sequence, fewer if the context or the vocabulary is smaller.
        seed: random seed for the random tokens.
    """
    task, names = observed.task, observed.roles.names
    rows = torch.stack([observed.rows(name) for name in names], -1)
    sets = {**token_sets(task.clean), **_answer_sets(task.clean, task.answers)}
    at_role = []
    for pattern in observed.patterns:
        on_sets = {name: _mean_over(rows, (pattern * keys).sum(-1), keys.any(-1)) for name, keys in sets.items()}
        at_role.append(on_sets)
    everywhere = torch.ones_like(task.clean.ids, dtype=torch.bool)
    by_role = tuple(
        torch.stack(
            [_mean_over(rows, torch.einsum("hbqk,bk->hbq", pattern, rows[..., key]), everywhere) for key in range(len(names))], -1
        )
        for pattern in observed.patterns
    )
    return Looks(
        by_role, tuple(at_role), _on_random(observed.model, observed.task.parameters.get("bos", "auto"), copies, length, seed)
    )


def token_sets(tokens: Tokens) -> KeySets:
    """The relation of each key to each query, by the tokens alone; keys after the query have none."""
    ids, positions = tokens.ids, torch.arange(tokens.ids.shape[1], device=tokens.ids.device)
    distance = positions[:, None] - positions
    same = (ids[:, :, None] == ids[:, None, :]) & (distance > 0)
    after = torch.zeros_like(same)
    after[:, :, 1:] = same[:, :, :-1] & (distance > 0)[:, 1:]
    whole = torch.ones_like(same)
    return {
        "previous": whole & (distance == 1),
        "same": same,
        "after same": after,
        "repeated": (same.any(-1)[:, None, :] & (distance > 0)),
        "self": whole & (distance == 0),
        "first": whole & (positions == 0),
    }


def _answer_sets(tokens: Tokens, answers: Answers) -> KeySets:
    shape = (*tokens.ids.shape, tokens.ids.shape[1])
    found = {}
    for name, ids, mask in (("right", answers.correct, answers.correct_mask), ("wrong", answers.wrong, answers.wrong_mask)):
        # at the row of an answer its own tokens count, at all other rows those of all of its prompt's answers
        is_one = ((tokens.ids[answers.example][:, :, None] == ids[:, None, :]) & mask[:, None, :]).any(-1)
        of_prompt = torch.zeros_like(tokens.ids).index_add_(0, answers.example, is_one.long()) > 0
        keys = of_prompt[:, None, :].expand(shape).clone()
        keys[answers.example, answers.pos] = is_one
        found[name] = keys
    return found


def _mean_over(
    rows: Float[Tensor, "batch query role"], mass: Float[Tensor, "head batch query"], have: Bool[Tensor, "batch query"]
) -> Float[Tensor, "head role"]:
    counted = rows * have[..., None]
    return torch.einsum("hbq,bqr->hr", mass.float(), counted) / counted.sum((0, 1))


def _on_random(
    model: Transformer, bos: str, copies: int, length: int, seed: int
) -> tuple[Mapping[str, Float[Tensor, " head"]], ...] | None:
    tokens, start = _repeated(model, bos, copies, length, seed)
    if tokens is None:
        return None
    sets, second = token_sets(tokens), torch.zeros(*tokens.ids.shape, 1, device=model.device)
    second[:, start:] = 1
    return tuple(
        {
            # a token has one before it in the first copy as well
            name: _mean_over(
                torch.ones_like(second) if name == "previous" else second, (pattern * sets[name]).sum(-1), sets[name].any(-1)
            )[:, 0]
            for name in ("previous", "same", "after same")
        }
        for pattern in attention_patterns(model, tokens)
    )


def _repeated(model: Transformer, bos: str, copies: int, length: int, seed: int) -> tuple[Tokens | None, int]:
    """A sequence of distinct random tokens repeated once, and the position where the second copy begins."""
    try:
        prefix = bos_prefix(model.tokenizer, bos, model.name)
    except SettingsError:
        prefix = ()
    ordinary, random = ordinary_tokens(model), Random(seed)
    length = min(length, (model.config.context - len(prefix)) // 2, len(ordinary))
    if length < _SHORTEST:
        return None, 0
    drawn = [random.sample(ordinary, length) for _ in range(copies)]
    return Tokens.from_lists([[*prefix, *half, *half] for half in drawn], model.device), len(prefix) + length


@torch.no_grad()
def growth(observed: Observation, heads: Collection[Node]) -> Float[Tensor, " writer"]:
    """Growth of each head's direct effect, in logits, when some heads write their values of the corrupted run.

    Everything downstream is recomputed; the final norm's scale stays frozen at its value in the model's run. 0 for other writers.
    """
    model, task, graph = observed.model, observed.task, observed.graph
    at, grown, stream = at_answers(observed), torch.zeros(len(graph.writers), dtype=torch.float64), observed.streams[0][0]
    for layer in range(model.config.n_layers):
        before, weights = stream, model.weights.layers[layer].attention
        writes = attend(model, layer, before[None], before[None], before[None]).writes
        rows = list(graph.writers_in[graph.unit_index[f"a{layer}"]])
        chosen = [number for number, row in enumerate(rows) if graph.writers[row] in heads]
        if chosen:
            other = observed.streams[1][graph.unit_index[f"a{layer}"]]
            writes[chosen] = attend(model, layer, other[None], other[None], other[None]).writes[chosen]
        change = task.answers.rows(writes) - task.answers.rows(observed.values[rows])
        grown[rows] = task.answers.mean(torch.linalg.vecdot(change, at)).cpu()
        attended = stream + writes.sum(0)
        attended = attended if weights.b_O is None else attended + weights.b_O
        mlp = feed_forward(model, layer, before if model.config.parallel else attended) if model.config.d_mlp else 0
        stream = attended + mlp
    return grown


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
    """Tokens that heads may copy, and their residual streams in the prompts.

    Args:
        ids: the token ids.
        stream: each token's residual stream at the beginning of the first layer, and of the second.
        top: number of highest logits that count as top.
        across, among: W_E W_U and W_E W_E, summed over the vocabulary, without gains: the same for all heads.
    """

    ids: Int[Tensor, " row"]
    stream: tuple[Float[Tensor, "row d_model"], Float[Tensor, "row d_model"]]
    top: int
    across: Float[Tensor, "d_model d_model"]
    among: Float[Tensor, "d_model d_model"]


def carried(observed: Observation, top: int) -> Carried:
    """The prompts' tokens that are right or wrong answers, or all of their tokens if none is; at most 64.

    Args:
        top: number of highest logits that count as top, in vocabularies of at least 20 times as many tokens.
    """
    tokens, answers = observed.task.clean, observed.task.answers
    positions = torch.arange(tokens.ids.shape[1], device=tokens.ids.device)
    within = positions < tokens.lengths[:, None]
    options = torch.cat([answers.correct[answers.correct_mask], answers.wrong[answers.wrong_mask]])
    chosen = within & torch.isin(tokens.ids, options)
    chosen = chosen if bool(chosen.any()) else within
    # once for each token, where it comes first
    first = {int(tokens.ids[b, p]): (b, p) for b, p in reversed(chosen.nonzero().tolist())}
    positions = torch.tensor(sorted(first.values())[:_MOST_TOKENS], device=tokens.ids.device)
    at, streams, config = (positions[:, 0], positions[:, 1]), observed.streams[0], observed.model.config
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
