"""Indirect object identification (Wang et al. 2022, arXiv 2211.00593).

    clean       Then, Mary and John went to the store. John gave a drink to      -> " Mary", not " John"
    corrupted   Then, Anna and Paul went to the store. Kate gave a drink to      (ABC: three fresh names, nobody is repeated)

The model must find the name that occurs once. Half of the prompts name the indirect object first (ABBA), half second
(BABA). Names are single tokens after a space in the model at hand, so that clean and corrupted line up; sentences never
begin with a name. The same seed gives the same prompts, and fewer examples are the beginning of more. Roles: IO, S1, S2
(the names), S1+1 (the token after S1), END.
"""

from random import Random

from subcircuit.entry import entry
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.build import build_task
from subcircuit.tasks.draw import check_enough, draw_distinct, whole_words
from subcircuit.tasks.encoding import BosPolicy, make_encoder
from subcircuit.tasks.roles import Span, filled
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


@entry
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
    names, random = whole_words(make_encoder(model, bos), NAMES), Random(seed)
    check_enough(names, NAMES, FEWEST_NAMES, "first names", "IOI", model.name)
    pairs = draw_distinct(lambda count: _draw_pair(names, count % 2 == 0, random), examples, "IOI")
    return build_task("ioi", pairs, model, parameters={"examples": examples, "seed": seed}, bos=bos)


def _draw_pair(names: tuple[str, ...], object_first: bool, random: Random) -> PromptPair:
    indirect, subject, *fresh = random.sample(names, 5)
    template = random.choice(TEMPLATES)
    words = {"place": random.choice(PLACES), "object": random.choice(OBJECTS)}
    a, b = (indirect, subject) if object_first else (subject, indirect)
    roles = {"a": "IO" if object_first else "S1", "b": "S1" if object_first else "IO", "s": "S2"}
    clean, spans = filled(template, roles, a=a, b=b, s=subject, **words)
    after = next(span.stop for span in spans if span.role == "S1")
    return PromptPair(
        clean=clean,
        corrupted=template.format(a=fresh[0], b=fresh[1], s=fresh[2], **words),
        answers=(f" {indirect}",),
        wrong_answers=(f" {subject}",),
        # the space and the letter after it are one token in some tokenizers and two in others' offsets
        spans=(*spans, Span("S1+1", after, after + 2)),
    )
