"""Construction of tasks from text or token ids, with a check of every pair."""

from collections.abc import Mapping, Sequence
from typing import Any

from subcircuit.entry import entry
from subcircuit.errors import PromptError, PromptMismatchError
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.metrics import metric as metric_named
from subcircuit.tasks.roles import Roles, is_role, with_ends
from subcircuit.tasks.task import Answer, Answers, PromptPair, Task
from subcircuit.tasks.tokenizer import BosPolicy, Encoder, answer_tokens, make_encoder


@entry
def build_task(
    name: str,
    pairs: Sequence[PromptPair],
    model: Transformer,
    *,
    parameters: Mapping[str, Any],
    bos: BosPolicy = "auto",
    metric: str = "kl_divergence",
    labels: Sequence[str] | None = None,
    roles: Sequence[Mapping[str, Sequence[int]]] | None = None,
) -> Task:
    """Tokenise pairs of prompts and check each of them; answers are read at the last token.

    Args:
        name: for records.
        pairs: of text, in order.
        model: whose tokenizer, context length and vocabulary to use.
        parameters: what the task was made from, as JSON values; ``bos`` is added to them.
        bos: see `make_encoder`.
        metric: name of the task's own metric.
        labels: the name of each pair in messages; "pair 1", "pair 2", … by default.
        roles: the positions that have a role in each pair, counted in the text's own tokens from 0; those of the pairs'
            spans by default. `Roles` adds START, END and rest.

    Raises:
        PromptMismatchError: clean and corrupted have different numbers of tokens.
        PromptError: no pairs; a prompt is empty, too long or the same as its counterpart, or has a word that is not in the
            vocabulary; a pair comes twice; an answer is not one token, comes twice, or is both right and wrong; the model has
            no tokenizer.
        SettingsError: the BOS policy does not fit the tokenizer.
        UnknownNameError: no such metric.
    """
    encoder = make_encoder(model, bos)
    labels = labels or _numbered(len(pairs))
    _check_distinct(pairs, labels)
    for pair, label in zip(pairs, labels, strict=True):
        _check_text(pair, encoder, label)
    clean = encoder.encode([pair.clean or "" for pair in pairs])
    corrupted = encoder.encode([pair.corrupted or "" for pair in pairs])
    for one, other, label in zip(clean, corrupted, labels, strict=True):
        # before answers are looked at: their messages make sense only for prompts that are right
        _check_prompts(one, other, model, label)
    answers = [
        Answer(
            index,
            len(clean[index]) - 1,
            answer_tokens(encoder, pair.clean or "", pair.answers, label),
            answer_tokens(encoder, pair.clean or "", pair.wrong_answers, label),
        )
        for index, (pair, label) in enumerate(zip(pairs, labels, strict=True))
    ]
    recorded = {**parameters, "bos": bos}
    if roles is None:
        places = [encoder.places(pair.clean or "", pair.spans) for pair in pairs]
    else:
        places = [{role: [p + len(encoder.prefix) for p in positions] for role, positions in each.items()} for each in roles]
    return build_task_of_ids(
        name, clean, corrupted, answers, model, parameters=recorded, metric=metric, pairs=pairs, labels=labels, roles=places
    )


@entry
def build_task_of_ids(
    name: str,
    clean: Sequence[Sequence[int]],
    corrupted: Sequence[Sequence[int]],
    answers: Sequence[Answer],
    model: Transformer,
    *,
    parameters: Mapping[str, Any],
    metric: str = "kl_divergence",
    pairs: Sequence[PromptPair] | None = None,
    labels: Sequence[str] | None = None,
    roles: Sequence[Mapping[str, Sequence[int]]] | None = None,
) -> Task:
    """A task of token ids, for behaviours that are not text or that are read at several positions.

    Args:
        name: for records.
        clean: prompts that elicit the behaviour, as they go into the model: no token is added.
        corrupted: their counterparts.
        answers: at least one for every prompt, in the order of prompts.
        model: whose context length and vocabulary to use, and on whose device the task will be.
        parameters: what the task was made from, as JSON values.
        metric: name of the task's own metric.
        pairs: the prompts as text, for display.
        labels: the name of each pair in messages.
        roles: the positions that have a role in each prompt. `Roles` adds START, END and rest.

    Raises:
        PromptMismatchError, PromptError, UnknownNameError: as in `build_task`; also a role that is no name, or a position
            that is not there or has two roles; prompts of unequal lengths for a model
            that is not causal.
    """
    metric_named(metric)
    labels = labels or _numbered(len(clean))
    if not clean or len(clean) != len(corrupted):
        raise PromptError(
            f"task {name} has {len(clean)} clean and {len(corrupted)} corrupted prompts: the numbers must be equal and at least 1."
        )
    for one, other, label in zip(clean, corrupted, labels, strict=True):
        _check_prompts(one, other, model, label)
    _check_lengths(clean, model, labels)
    _check_answers(answers, clean, model, labels)
    return Task(
        name,
        dict(parameters),
        tuple(pairs) if pairs else (PromptPair(None, None),) * len(clean),
        Tokens.from_lists(clean, model.device),
        Tokens.from_lists(corrupted, model.device),
        Answers.from_list(answers, model.device),
        metric,
        _roles(roles, answers, clean, model, labels),
        model.vocabulary,
    )


def _numbered(count: int) -> list[str]:
    return [f"pair {number}" for number in range(1, count + 1)]


def _check_distinct(pairs: Sequence[PromptPair], labels: Sequence[str]) -> None:
    seen: dict[PromptPair, str] = {}
    for pair, label in zip(pairs, labels, strict=True):
        if pair in seen:
            raise PromptError(f"{seen[pair]} and {label} are the same, so the pair would count twice in every mean: remove one.")
        seen[pair] = label


def _check_text(pair: PromptPair, encoder: Encoder, label: str) -> None:
    for kind, text in (("clean", pair.clean), ("corrupted", pair.corrupted)):
        if not text:
            raise PromptError(f"{label}: the {kind} prompt is empty.")
        unread = encoder.unread(text)
        if unread is not None:
            raise PromptError(
                f"{label}: {unread!r} in the {kind} prompt is not in the vocabulary of {encoder.model}, so the model would not see it: "
                "choose another word."
            )
    if not pair.answers:
        raise PromptError(f"{label}: no answer is given; at least one right next token is needed.")


def _check_prompts(clean: Sequence[int], corrupted: Sequence[int], model: Transformer, label: str) -> None:
    if len(clean) != len(corrupted):
        where = next(
            (i for i, (a, b) in enumerate(zip(clean, corrupted, strict=False)) if a != b), min(len(clean), len(corrupted))
        )
        raise PromptMismatchError(
            f"{label}: clean has {len(clean)} tokens, corrupted {len(corrupted)}; they first differ at position {where} "
            f"({_token(model, clean, where)} / {_token(model, corrupted, where)}). Edges are cut position by position, so "
            f"pairs must line up: choose words with the same number of tokens in {model.name}."
        )
    if not clean:
        raise PromptError(f"{label}: the prompts are empty.")
    if list(clean) == list(corrupted):
        raise PromptError(
            f"{label}: clean and corrupted prompt are the same, so cutting an edge would change nothing: change one of them."
        )
    if len(clean) > model.config.context:
        raise PromptError(
            f"{label}: the prompts have {len(clean)} tokens, and {model.name} reads at most {model.config.context}: shorten them."
        )
    for token in (*clean, *corrupted):
        if not 0 <= token < model.config.vocab:
            raise PromptError(
                f"{label}: token id {token} is outside the vocabulary of {model.name} (0 to {model.config.vocab - 1})."
            )


def _check_lengths(clean: Sequence[Sequence[int]], model: Transformer, labels: Sequence[str]) -> None:
    for one, label in zip(clean, labels, strict=True):
        if not model.config.causal and len(one) != len(clean[0]):
            raise PromptError(
                f"{label} has {len(one)} tokens, and {labels[0]} has {len(clean[0])}. {model.name} attends to later positions, "
                "so padding would change its results: use prompts of one length."
            )


def _roles(
    declared: Sequence[Mapping[str, Sequence[int]]] | None,
    answers: Sequence[Answer],
    clean: Sequence[Sequence[int]],
    model: Transformer,
    labels: Sequence[str],
) -> Roles | None:
    if declared is None or not any(declared):
        return None
    for places, one, label in zip(declared, clean, labels, strict=True):
        _check_roles(places, len(one), label)
    at: list[list[int]] = [[] for _ in clean]
    for answer in answers:
        at[answer.example].append(answer.pos)
    named = [with_ends(places, ends) for places, ends in zip(declared, at, strict=True)]
    return Roles.from_positions(named, [len(one) for one in clean], model.device)


def _check_roles(places: Mapping[str, Sequence[int]], length: int, label: str) -> None:
    taken: dict[int, str] = {}
    for role, positions in places.items():
        if not is_role(role):
            raise PromptError(
                f"{label}: {role!r} is not a valid role: a role has up to 32 letters, digits, _ and +, and does not start with a digit."
            )
        for position in positions:
            if not 0 <= position < length:
                raise PromptError(f"{label}: role {role} is at position {position}, and the prompt has {length} tokens.")
            if taken.setdefault(position, role) != role:
                raise PromptError(
                    f"{label}: position {position} has two roles, {taken[position]} and {role}: a position can have only one role."
                )


def _token(model: Transformer, ids: Sequence[int], where: int) -> str:
    if where >= len(ids):
        return "the end"
    return f"id {ids[where]}" if model.tokenizer is None else repr(model.tokenizer.decode([ids[where]]))


def _check_answers(answers: Sequence[Answer], clean: Sequence[Sequence[int]], model: Transformer, labels: Sequence[str]) -> None:
    order = [answer.example for answer in answers]
    if sorted(set(order)) != list(range(len(clean))) or order != sorted(order):
        raise PromptError(
            f"answers must be in the order of the {len(clean)} prompts, at least one per prompt; their prompts are {order[:20]}."
        )
    for answer in answers:
        label, ids = labels[answer.example], (*answer.correct, *answer.wrong)
        if not answer.correct:
            raise PromptError(f"{label}: no answer is given; at least one right next token is needed.")
        if not 0 <= answer.pos < len(clean[answer.example]):
            raise PromptError(
                f"{label}: an answer is read at position {answer.pos}, and the prompt has {len(clean[answer.example])} tokens."
            )
        for token in ids:
            if not 0 <= token < model.config.vocab:
                raise PromptError(
                    f"{label}: answer token {token} is outside the vocabulary of {model.name} (0 to {model.config.vocab - 1})."
                )
        twice = sorted({token for token in ids if ids.count(token) > 1})
        if twice:
            both = twice[0] in answer.correct and twice[0] in answer.wrong
            raise PromptError(
                f"{label}: token {_token(model, twice, 0)} is {'both a right and a wrong' if both else 'twice an'} answer."
            )
