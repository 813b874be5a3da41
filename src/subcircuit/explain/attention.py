"""What heads look at: attention summed by token role, and by what a key is to its query.

    previous      the token before
    same          an earlier occurrence of the query's token           (duplicate-token heads, Wang et al. 2022)
    after same    the token after an earlier occurrence                (induction heads, Olsson et al. 2022, arXiv 2209.11895)
    repeated      an earlier token that was itself a repetition    (what inhibition heads read)
    self, first   the query's own position; the prompt's first one, where heads rest
    right, wrong  a token that is one of the prompt's right, or wrong, answers

Each is the mean, over the queries that have such a key, of the attention that falls on such keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.engine.patterns import attention_patterns
from subcircuit.errors import SettingsError
from subcircuit.explain.observe import Observation
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer
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
    """Sum up attention on the task's prompts and on random repeated tokens.

    Args:
        copies: how many random sequences.
        length: tokens of each half of them, or fewer where context or vocabulary hold fewer.
        seed: of the random tokens.
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
    """Which keys are what to which queries, by the tokens alone; keys after the query are nothing to it."""
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
    """Random tokens, all different, twice; and where the second copy begins."""
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
