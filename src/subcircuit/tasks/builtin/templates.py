"""Tasks made of templates and lists of words that are single tokens, each described by a data file ``NAME.toml``.

    title                   the task's name in messages
    metric                  name of the task's own metric
    templates               texts with fields in braces, as a list or under a name each
    [words]                 lists of words; an entry may have several forms, such as singular and plural
    [single_tokens]         lists restricted to words of one token: the minimum number of words, and the list's name in messages
    [draw]                  random slots in the order in which they are drawn, and the list that each comes from (``templates``, a list
                            of words, or a slot drawn before, for one of its forms); slots of one line are different words
    [clean], [corrupted]    the fields of either prompt that are no slots; a slot in braces stands for its word
    [roles]                 the token roles of fields of the clean prompt
    next_tokens             roles whose following token has a role of its own, ROLE+1
    answers, wrong_answers  right and wrong next tokens of the clean prompt, with their space
    [[turns]]               what is different for the first prompt, for the second, …, in turn

The same seed gives the same prompts, and fewer examples are the beginning of more.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import chain
from random import Random
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict

from subcircuit.entry import entry
from subcircuit.errors import PromptError, SettingsError
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.prompts import build_task
from subcircuit.tasks.roles import Span, filled
from subcircuit.tasks.task import PromptPair, Task
from subcircuit.tasks.tokenizer import BosPolicy, Encoder, make_encoder

Word: TypeAlias = str | tuple[str, ...]
_Offered = TypeVar("_Offered")
_TRIES = 1000


class TooFewPromptsError(SettingsError):
    """A task has fewer different prompts than requested; ``found`` is their number."""

    def __init__(self, task: str, found: int, wanted: int):
        super().__init__(
            f"{found} different prompts were found for {task} with this tokenizer's words, and {wanted} are needed: use at most "
            f"{found} (--examples)."
        )
        self.found = found


class SingleTokens(BaseModel):
    """The number of words of a list that must be single tokens, and the list's name in messages."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fewest: int
    kind: str


class Turn(BaseModel):
    """The part of a data file that may differ from one prompt to the next: see the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    draw: dict[str, str] = {}
    clean: dict[str, str] = {}
    corrupted: dict[str, str] = {}
    roles: dict[str, str] = {}
    answers: tuple[str, ...] = ()
    wrong_answers: tuple[str, ...] = ()


class Templates(Turn):
    """A data file: see the module."""

    title: str
    metric: str
    templates: tuple[str, ...] | dict[str, str]
    words: dict[str, tuple[Word, ...]]
    single_tokens: dict[str, SingleTokens]
    next_tokens: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = (Turn(),)

    def turn(self, index: int) -> Turn:
        """The description of one prompt, including the part that all prompts share."""
        own = self.turns[index % len(self.turns)]
        return Turn(
            draw=self.draw | own.draw,
            clean=self.clean | own.clean,
            corrupted=self.corrupted | own.corrupted,
            roles=self.roles | own.roles,
            answers=own.answers or self.answers,
            wrong_answers=own.wrong_answers or self.wrong_answers,
        )


@cache
def templates_of(name: str) -> Templates:
    """The data file of a built-in task."""
    return Templates.model_validate(
        tomllib.loads((files("subcircuit.tasks.builtin") / f"{name}.toml").read_text(encoding="utf-8"))
    )


@entry
def template_task(name: str, model: Transformer, *, examples: int = 8, seed: int = 0, bos: BosPolicy = "auto") -> Task:
    """The built-in task of a data file, for any model whose tokenizer has enough words of one token.

    Args:
        name: of the data file.
        model: whose tokenizer decides which words can be used.
        examples: prompts to make, all different.
        seed: random seed for the choice of words and templates.
        bos: see `make_encoder`.

    Raises:
        SettingsError: not a positive number of examples, or more than can be told apart.
        PromptError: the model has no tokenizer, or too few words are one token in it.
        PromptMismatchError: the tokenizer makes clean and corrupted prompts unequally long.
    """
    return build_templates(name, templates_of(name), model, {"examples": examples, "seed": seed}, bos)


def build_templates(name: str, source: Templates, model: Transformer, parameters: Mapping[str, Any], bos: BosPolicy) -> Task:
    """The task of a description; ``parameters`` are for its record, ``examples`` and ``seed`` among them."""
    encoder, random = make_encoder(model, bos), Random(parameters["seed"])
    texts = source.templates
    words = {**source.words, "templates": tuple(texts.values()) if isinstance(texts, dict) else texts}
    for kind, needed in source.single_tokens.items():
        words[kind] = single_tokens(encoder, source.words[kind])
        check_enough(words[kind], source.words[kind], needed.fewest, needed.kind, source.title, model.name)
    pairs = draw_distinct(lambda index: _draw_pair(source, words, index, random), parameters["examples"], source.title)
    return build_task(name, pairs, model, parameters=parameters, bos=bos, metric=source.metric)


def _draw_pair(source: Templates, words: Mapping[str, Sequence[Word]], index: int, random: Random) -> PromptPair:
    turn = source.turn(index)
    slots: dict[str, Any] = {"template": words["templates"][0]}
    for line, kind in turn.draw.items():
        names, offered = line.split(), slots.get(kind, words.get(kind))
        # a sample of one would take another number from the generator than a choice does
        slots |= zip(names, random.sample(offered, len(names)) if len(names) > 1 else [random.choice(offered)], strict=True)
    # a word of several forms is no text itself: the fields name one of them
    texts = {field: word for field, word in _fields(turn.clean, slots).items() if isinstance(word, str)}
    clean, spans = filled(slots["template"], turn.roles, **texts)
    return PromptPair(
        clean=clean,
        corrupted=slots["template"].format(**_fields(turn.corrupted, slots)),
        answers=tuple(text.format(**slots) for text in turn.answers),
        wrong_answers=tuple(text.format(**slots) for text in turn.wrong_answers),
        spans=(*spans, *(_next_token(role, spans) for role in source.next_tokens)),
    )


def _fields(own: Mapping[str, str], slots: Mapping[str, Any]) -> dict[str, Any]:
    return {**slots, **{field: text.format(**slots) for field, text in own.items()}}


def _next_token(role: str, spans: Sequence[Span]) -> Span:
    after = next(span.stop for span in spans if span.role == role)
    # the space and the letter after it are one token in some tokenizers and two in others' offsets
    return Span(f"{role}+1", after, after + 2)


def draw_distinct(draw: Callable[[int], PromptPair], count: int, task: str) -> list[PromptPair]:
    """Pairs whose clean prompts are all different.

    Args:
        draw: a random pair, given how many there are already.
        count: how many are wanted.
        task: name for messages.

    Raises:
        SettingsError: not a positive number.
        TooFewPromptsError: no new prompt turns up in a thousand tries: there are no more, or few.
    """
    if count < 1:
        raise SettingsError(f"examples is {count}; it must be at least 1.")
    pairs: dict[str | None, PromptPair] = {}
    tries = 0
    while len(pairs) < count and tries < _TRIES:
        pair = draw(len(pairs))
        tries = tries + 1 if pair.clean in pairs else 0
        pairs.setdefault(pair.clean, pair)
    if len(pairs) < count:
        raise TooFewPromptsError(task, len(pairs), count)
    return list(pairs.values())


def single_tokens(encoder: Encoder, words: Sequence[Word]) -> tuple[Word, ...]:
    """The words whose forms are all a single known token after a space."""
    forms = [(word,) if isinstance(word, str) else word for word in words]
    unknown, every = encoder.tokenizer.unk_token_id, [*chain(*forms)]
    (before,) = encoder.plain(["Then, the"])
    after = encoder.plain([f"Then, the {form}" for form in every])
    whole = {form for form, ids in zip(every, after, strict=True) if ids[:-1] == before and ids[-1] != unknown}
    return tuple(word for word, needed in zip(words, forms, strict=True) if whole.issuperset(needed))


def check_enough(usable: Sequence[_Offered], offered: Sequence[_Offered], fewest: int, kind: str, task: str, model: str) -> None:
    """Refuse a tokenizer that leaves a task too few words.

    Raises:
        PromptError: fewer than ``fewest`` are usable.
    """
    if len(usable) < fewest:
        raise PromptError(
            f"{len(usable)} of {len(offered)} {kind} are one token in {model}, and {task} needs {fewest}: "
            "use a .jsonl file of your own prompts."
        )
