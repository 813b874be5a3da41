"""Indirect object identification (Wang et al. 2022, arXiv 2211.00593).

    clean       Then, Mary and John went to the store. John gave a drink to      -> " Mary", not " John"
    corrupted   Then, Anna and Paul went to the store. Kate gave a drink to      (ABC: three fresh names, nobody is repeated)

The model must find the name that occurs once. Half of the prompts name the indirect object first (ABBA), half second
(BABA). Names are single tokens after a space in the model at hand, so that clean and corrupted line up; sentences never
begin with a name. The same seed gives the same prompts, and fewer examples are the beginning of more.
"""

from random import Random

from subcircuit.errors import PromptError, SettingsError
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.build import build_task
from subcircuit.tasks.encoding import BosPolicy, Encoder, make_encoder
from subcircuit.tasks.task import PromptPair, Task

FEWEST_NAMES = 6
# fmt: off
NAMES = (
    "Aaron", "Adam", "Alan", "Alex", "Alice", "Amy", "Andrew", "Anna", "Anthony", "Arthur", "Ben", "Brian", "Carl", "Charles",
    "Charlie", "Chris", "Christine", "Claire", "Connor", "Daniel", "David", "Diana", "Edward", "Elizabeth", "Emily", "Emma",
    "Eric", "Eva", "Frank", "Fred", "Gary", "George", "Grace", "Greg", "Harry", "Henry", "Ian", "Jack", "Jacob", "Jake",
    "James", "Jamie", "Jane", "Jason", "Jeff", "Jennifer", "Jessica", "Jim", "Joe", "John", "Jonathan", "Joseph", "Josh",
    "Julia", "Justin", "Kate", "Kelly", "Kevin", "Laura", "Lisa", "Louis", "Lucas", "Lucy", "Luke", "Maria", "Mark", "Martin",
    "Mary", "Matthew", "Max", "Michael", "Michelle", "Mike", "Nick", "Oliver", "Oscar", "Patrick", "Paul", "Peter", "Philip",
    "Rachel", "Rebecca", "Richard", "Robert", "Rose", "Ryan", "Sam", "Samuel", "Sarah", "Scott", "Simon", "Stephen", "Steve",
    "Steven", "Susan", "Thomas", "Tim", "Tom", "Tony", "Tyler", "Victoria", "Vincent", "William",
)
# fmt: on
PLACES = ("store", "garden", "restaurant", "school", "hospital", "office", "house", "station", "park", "library")
OBJECTS = ("ring", "kiss", "bone", "basketball", "computer", "necklace", "drink", "snack", "book", "letter")
TEMPLATES = (
    "Then, {a} and {b} went to the {place}. {s} gave a {object} to",
    "Then, {a} and {b} had a lot of fun at the {place}. {s} gave a {object} to",
    "Then, {a} and {b} were working at the {place}. {s} decided to give a {object} to",
    "Then, {a} and {b} were thinking about going to the {place}. {s} wanted to give a {object} to",
    "Then, {a} and {b} had a long argument, and afterwards {s} said to",
    "After {a} and {b} went to the {place}, {s} gave a {object} to",
    "When {a} and {b} got a {object} at the {place}, {s} decided to give it to",
    "When {a} and {b} got a {object} at the {place}, {s} decided to give the {object} to",
    "While {a} and {b} were working at the {place}, {s} gave a {object} to",
    "While {a} and {b} were commuting to the {place}, {s} gave a {object} to",
    "After the lunch, {a} and {b} went to the {place}. {s} gave a {object} to",
    "Afterwards, {a} and {b} went to the {place}. {s} gave a {object} to",
    "Friends {a} and {b} found a {object} at the {place}. {s} gave it to",
    "The {place} {a} and {b} went to had a {object}. {s} gave it to",
)
_TRIES = 1000


def ioi(model: Transformer, *, examples: int = 8, seed: int = 0, bos: BosPolicy = "auto") -> Task:
    """Indirect object identification for any model whose tokenizer has enough names of one token.

    Args:
        model: whose tokenizer decides which names can be used.
        examples: prompts to make, all different, ABBA and BABA in turn.
        seed: of the choice of names, places, objects and templates.
        bos: see `make_encoder`.

    Raises:
        SettingsError: not a positive number of examples, or more than can be told apart.
        PromptError: the model has no tokenizer, or too few names are one token in it.
    """
    if examples < 1:
        raise SettingsError(f"examples is {examples}; it must be at least 1.")
    names = _usable_names(make_encoder(model, bos))
    parameters = {"examples": examples, "seed": seed}
    return build_task("ioi", _draw_pairs(names, examples, Random(seed)), model, parameters=parameters, bos=bos)


def _usable_names(encoder: Encoder) -> tuple[str, ...]:
    (before,) = encoder.plain(["Then, the"])
    after = encoder.plain([f"Then, the {name}" for name in NAMES])
    usable = tuple(name for name, ids in zip(NAMES, after, strict=True) if ids[:-1] == before)
    if len(usable) < FEWEST_NAMES:
        raise PromptError(
            f"{len(usable)} of {len(NAMES)} first names are one token in {encoder.model}, and IOI needs {FEWEST_NAMES}: "
            "bring prompts of your own in a .jsonl file."
        )
    return usable


def _draw_pairs(names: tuple[str, ...], count: int, random: Random) -> list[PromptPair]:
    pairs: dict[PromptPair, None] = {}
    tries = 0
    while len(pairs) < count and tries < _TRIES:
        pair = _draw_pair(names, len(pairs) % 2 == 0, random)
        tries = tries + 1 if pair in pairs else 0
        pairs[pair] = None
    if len(pairs) < count:
        raise SettingsError(f"{len(pairs)} different IOI prompts were found with {len(names)} names; ask for fewer than {count}.")
    return list(pairs)


def _draw_pair(names: tuple[str, ...], object_first: bool, random: Random) -> PromptPair:
    indirect, subject, *fresh = random.sample(names, 5)
    template = random.choice(TEMPLATES)
    words = {"place": random.choice(PLACES), "object": random.choice(OBJECTS)}
    a, b = (indirect, subject) if object_first else (subject, indirect)
    return PromptPair(
        clean=template.format(a=a, b=b, s=subject, **words),
        corrupted=template.format(a=fresh[0], b=fresh[1], s=fresh[2], **words),
        answers=(f" {indirect}",),
        wrong_answers=(f" {subject}",),
    )
