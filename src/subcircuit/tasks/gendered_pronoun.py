"""Gendered pronoun (Mathwin et al. 2023, "Identifying a preliminary circuit for predicting gendered pronouns in GPT-2 small").

    clean       So Sarah is a really nice person, isn't     -> " she", not " he"
    corrupted   That person is a really nice person, isn't  nobody's gender is known

As many prompts have a woman's name as a man's, in turn. "So Sarah" and "That person" are as many tokens where the name is
one token, so the prompts line up, and differ in their beginnings alone. The metric is the logit difference. Roles: name, is,
adjective, noun, END.
"""

from random import Random

from subcircuit.entry import entry
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.build import build_task
from subcircuit.tasks.draw import check_enough, draw_distinct, whole_words
from subcircuit.tasks.encoding import BosPolicy, make_encoder
from subcircuit.tasks.roles import filled
from subcircuit.tasks.task import PromptPair, Task

TEMPLATE = "{start} {who} {verb} a really {adjective} {noun}, isn't"
ROLES = {"who": "name", "verb": "is", "adjective": "adjective", "noun": "noun"}
# fmt: off
WOMEN = (
    "Alice", "Amy", "Anna", "Barbara", "Carol", "Claire", "Diana", "Elizabeth", "Emily", "Emma", "Eva", "Grace", "Helen", "Jane",
    "Jennifer", "Jessica", "Julia", "Karen", "Kate", "Laura", "Linda", "Lisa", "Lucy", "Margaret", "Maria", "Mary", "Michelle",
    "Nancy", "Rachel", "Rebecca", "Ruth", "Sarah", "Susan", "Victoria",
)
MEN = (
    "Adam", "Alan", "Andrew", "Anthony", "Arthur", "Brian", "Charles", "Daniel", "David", "Edward", "Eric", "Frank", "George",
    "Harry", "Henry", "Jack", "James", "John", "Joseph", "Kevin", "Mark", "Martin", "Matthew", "Michael", "Paul", "Peter",
    "Philip", "Richard", "Robert", "Simon", "Stephen", "Steven", "Thomas", "William",
)
# fmt: on
ADJECTIVES = ("clever", "friendly", "funny", "good", "great", "kind", "nice", "smart", "strong", "sweet")
NOUNS = ("friend", "neighbor", "person", "teacher")
FEWEST_NAMES = 2


@entry
def gendered_pronoun(model: Transformer, *, examples: int = 8, seed: int = 0, bos: BosPolicy = "auto") -> Task:
    """Gendered pronouns for any model whose tokenizer has enough names of one token.

    There are 40 prompts for every usable name, 2,720 at most.

    Args:
        model: whose tokenizer decides which names can be used.
        examples: prompts to make, all different, women and men in turn.
        seed: of the choice of names, adjectives and nouns.
        bos: see `make_encoder`.

    Raises:
        SettingsError: not a positive number of examples, or more than can be told apart.
        PromptError: the model has no tokenizer, or too few names are one token in it.
        PromptMismatchError: "So" and a name are not as many tokens as "That person".
    """
    encoder, random = make_encoder(model, bos), Random(seed)
    women, men = whole_words(encoder, WOMEN), whole_words(encoder, MEN)
    for usable, offered, kind in ((women, WOMEN, "women's names"), (men, MEN, "men's names")):
        check_enough(usable, offered, FEWEST_NAMES, kind, "gendered pronoun", model.name)

    def draw(count: int) -> PromptPair:
        names, right, wrong = (women, " she", " he") if count % 2 == 0 else (men, " he", " she")
        words = {"verb": "is", "adjective": random.choice(ADJECTIVES), "noun": random.choice(NOUNS)}
        clean, spans = filled(TEMPLATE, ROLES, start="So", who=random.choice(names), **words)
        return PromptPair(clean, TEMPLATE.format(start="That", who="person", **words), (right,), (wrong,), spans)

    pairs = draw_distinct(draw, examples, "gendered pronoun")
    parameters = {"examples": examples, "seed": seed}
    return build_task("gendered_pronoun", pairs, model, parameters=parameters, bos=bos, metric="logit_difference")
