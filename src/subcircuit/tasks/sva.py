"""Subject-verb agreement (Linzen et al. 2016, arXiv 1611.01368; Finlayson et al. 2021, arXiv 2106.06087).

    clean       The keys on the table     -> " are", not " is"
    corrupted   The key on the table      the subject's number alone is changed, and with it the verb's

Four structures, after Marks et al. 2024 (arXiv 2403.19647); the subject stands in brackets:

    simple      The [doctor]
    across_pp   The [doctor] behind the trees              a noun between subject and verb distracts
    within_rc   The trees that the [doctor]                 a noun before the subject distracts
    across_rc   The [doctor] that the teachers admired      (the past tense of the relative clause shows no number)

The distractor's number is drawn, and is the same in both prompts of a pair: in one of the two it is not the subject's. Each
prompt asks for one verb in both its numbers, as in the works above: is/are, was/were, has/have. Singular and plural
subjects come in turn. The metric is the logit difference. All nouns and verbs are single tokens in the model at hand. Roles:
subject (where it is not the last token), attractor (the noun that distracts), END.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeAlias

from subcircuit.entry import entry
from subcircuit.errors import SettingsError, UnknownNameError
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.build import build_task
from subcircuit.tasks.draw import check_enough, draw_distinct, whole_pairs
from subcircuit.tasks.encoding import BosPolicy, make_encoder
from subcircuit.tasks.roles import filled
from subcircuit.tasks.task import PromptPair, Task

Inflected: TypeAlias = tuple[str, str]  # singular, plural

STRUCTURES = {
    "simple": "The {subject}",
    "across_pp": "The {subject} {preposition} the {thing}",
    "within_rc": "The {thing} that the {subject}",
    "across_rc": "The {subject} that the {person} {verb}",
}
FEWEST_NOUNS = 2
VERBS: tuple[Inflected, ...] = (("is", "are"), ("was", "were"), ("has", "have"))
# fmt: off
PEOPLE: tuple[Inflected, ...] = (
    ("actor", "actors"), ("artist", "artists"), ("author", "authors"), ("boy", "boys"), ("child", "children"),
    ("dancer", "dancers"), ("doctor", "doctors"), ("driver", "drivers"), ("farmer", "farmers"), ("friend", "friends"),
    ("girl", "girls"), ("guard", "guards"), ("judge", "judges"), ("lawyer", "lawyers"), ("man", "men"),
    ("manager", "managers"), ("minister", "ministers"), ("officer", "officers"), ("painter", "painters"),
    ("pilot", "pilots"), ("player", "players"), ("poet", "poets"), ("senator", "senators"), ("singer", "singers"),
    ("soldier", "soldiers"), ("student", "students"), ("teacher", "teachers"), ("woman", "women"), ("worker", "workers"),
    ("writer", "writers"),
)
THINGS: tuple[Inflected, ...] = (
    ("bridge", "bridges"), ("building", "buildings"), ("car", "cars"), ("chair", "chairs"), ("door", "doors"),
    ("flower", "flowers"), ("garden", "gardens"), ("house", "houses"), ("machine", "machines"), ("painting", "paintings"),
    ("shop", "shops"), ("statue", "statues"), ("table", "tables"), ("tower", "towers"), ("tree", "trees"),
    ("truck", "trucks"), ("wall", "walls"), ("window", "windows"),
)
# fmt: on
PREPOSITIONS = ("near", "behind", "beside", "next to", "in front of")
PAST_VERBS = ("admired", "followed", "helped", "liked", "met", "remembered", "saw", "thanked", "visited", "watched")


@entry
def sva(
    model: Transformer,
    *,
    examples: int = 8,
    seed: int = 0,
    bos: BosPolicy = "auto",
    structures: Sequence[str] = tuple(STRUCTURES),
) -> Task:
    """Subject-verb agreement for any model whose tokenizer has enough nouns of one token in both numbers.

    With all structures there are thousands of prompts; of ``simple`` alone two for every usable noun, 60 at most.

    Args:
        model: whose tokenizer decides which nouns can be used.
        examples: prompts to make, all different, singular and plural subjects in turn.
        seed: of the choice of words and structures.
        bos: see `make_encoder`.
        structures: names from `STRUCTURES` to draw from.

    Raises:
        SettingsError: not a positive number of examples, or more than can be told apart, or no structure.
        PromptError: the model has no tokenizer, or too few nouns or no verbs are single tokens in it.
        UnknownNameError: no such structure.
    """
    if not structures:
        raise SettingsError(f"subject-verb agreement needs at least one structure of {', '.join(STRUCTURES)}.")
    for name in structures:
        if name not in STRUCTURES:
            raise UnknownNameError("structure", name, tuple(STRUCTURES))
    encoder, random = make_encoder(model, bos), Random(seed)
    people, things, verbs = (whole_pairs(encoder, offered) for offered in (PEOPLE, THINGS, VERBS))
    for usable, offered, fewest, kind in (
        (people, PEOPLE, FEWEST_NOUNS, "nouns for people"),
        (things, THINGS, FEWEST_NOUNS, "nouns for things"),
        (verbs, VERBS, 1, "verbs"),
    ):
        check_enough(usable, offered, fewest, f"{kind}, in singular and plural,", "subject-verb agreement", model.name)

    def draw(count: int) -> PromptPair:
        return _draw_pair(STRUCTURES[random.choice(structures)], people, things, random.choice(verbs), count % 2, random)

    pairs = draw_distinct(draw, examples, "subject-verb agreement")
    parameters = {"examples": examples, "seed": seed, "structures": list(structures)}
    return build_task("sva", pairs, model, parameters=parameters, bos=bos, metric="logit_difference")


def _draw_pair(
    template: str, people: Sequence[Inflected], things: Sequence[Inflected], verb: Inflected, number: int, random: Random
) -> PromptPair:
    subject, person = random.sample(people, 2)
    words = {
        "thing": random.choice(random.choice(things)),
        "person": random.choice(person),
        "preposition": random.choice(PREPOSITIONS),
        "verb": random.choice(PAST_VERBS),
    }
    roles = {"subject": "subject", "thing": "attractor", "person": "attractor"}
    clean, spans = filled(template, roles, subject=subject[number], **words)
    return PromptPair(
        clean=clean,
        corrupted=template.format(subject=subject[1 - number], **words),
        answers=(f" {verb[number]}",),
        wrong_answers=(f" {verb[1 - number]}",),
        spans=spans,
    )
