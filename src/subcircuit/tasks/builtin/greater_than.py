"""Greater-than (Hanna et al. 2023, arXiv 2305.00586).

    clean       The war lasted from the year 1732 to the year 17    -> a number above 32, not 32 or less
    corrupted   The war lasted from the year 1701 to the year 17    any number is above 01, or nearly

Years have a century XX from 11 to 17 and two more digits YY from 02 to 98. What comes next depends on the tokenizer:

    XX | YY             (GPT-2)             right: all YY' > YY, wrong: all YY' ≤ YY, as in the paper
    digit by digit      (SmolLM2, Gemma)    the next token is the first digit d' of YY': right: d' > d, wrong: d' < d;
                                            d itself is neither, because the second digit decides there. d is 1 to 8.

Only years that the tokenizer splits in its usual way are used, as in the paper. The metric is the paper's: total probability
of right answers minus that of wrong ones (`greater_than`). With digits alone the metric leaves P(d) out. Roles: noun, XX and YY (of
the first year), END.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from subcircuit.entry import entry
from subcircuit.errors import PromptError
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.builtin.templates import draw_distinct
from subcircuit.tasks.prompts import build_task
from subcircuit.tasks.roles import filled
from subcircuit.tasks.task import PromptPair, Task
from subcircuit.tasks.tokenizer import BosPolicy, Encoder, answer_token, make_encoder

TEMPLATE = "The {noun} lasted from the year {century}{year} to the year {again}"
# fmt: off
NOUNS = (
    "alliance", "apprenticeship", "arrangement", "battle", "blockade", "boom", "campaign", "ceasefire", "conflict",
    "construction", "controversy", "cooperation", "crisis", "crusade", "debate", "decline", "depression", "dispute", "domination",
    "dynasty", "embargo", "employment", "engagement", "epidemic", "era", "expansion", "expedition", "exploration", "famine",
    "feud", "friendship", "golden age", "guild", "hostilities", "imprisonment", "investigation", "journey", "marriage", "mission",
    "monopoly", "negotiations", "occupation", "partnership", "peace", "persecution", "pilgrimage", "plague", "project",
    "prosperity", "quarantine", "quest", "rebellion", "recession", "reform", "regime", "reign", "renaissance", "revolt",
    "rivalry", "rule", "settlement", "siege", "strike", "struggle", "tour", "tradition", "treaty", "trial", "truce", "unrest",
    "uprising", "voyage", "war", "work",
)
# fmt: on
CENTURIES = tuple(f"{century}" for century in range(11, 18))
LOW = "01"
FEWEST_YEARS = 8


@dataclass(frozen=True)
class YearTokens:
    """A tokenizer's form of years, and the years that have this form.

    Args:
        width: digits of the token that follows the century: 2 or 1.
        years: the usable years YY of each usable century.
    """

    width: int
    years: Mapping[str, Sequence[str]]


@entry
def greater_than(model: Transformer, *, examples: int = 8, seed: int = 0, bos: BosPolicy = "auto") -> Task:
    """The greater-than task, for any model whose tokenizer splits years into XX|YY or into digits.

    There are tens of thousands of prompts: every noun with every usable year.

    Args:
        model: the model whose tokenizer determines the form of the answer.
        examples: number of prompts, all different.
        seed: random seed for the choice of nouns and years.
        bos: see `make_encoder`.

    Raises:
        SettingsError: not a positive number of examples, or more than can be told apart.
        PromptError: the model has no tokenizer, or it splits years in other ways.
    """
    encoder, random = make_encoder(model, bos), Random(seed)
    numbers = _numbers(encoder)

    def draw(count: int) -> PromptPair:
        noun, century = random.choice(NOUNS), random.choice(tuple(numbers.years))
        return _pair(noun, century, random.choice(numbers.years[century]), numbers.width)

    pairs = draw_distinct(draw, examples, "greater-than")
    parameters = {"examples": examples, "seed": seed, "digits": numbers.width}
    return build_task("greater_than", pairs, model, parameters=parameters, bos=bos, metric="greater_than")


def _pair(noun: str, century: str, year: str, width: int) -> PromptPair:
    start, every = year[:width], _continuations(width)
    roles, words = {"noun": "noun", "century": "XX", "year": "YY"}, {"noun": noun, "century": century, "again": century}
    clean, spans = filled(TEMPLATE, roles, year=year, **words)
    return PromptPair(
        clean=clean,
        corrupted=TEMPLATE.format(year=LOW, **words),
        answers=tuple(number for number in every if number > start),
        # a whole number that is equal is not greater; a first digit that is equal says nothing yet
        wrong_answers=tuple(number for number in every if number < start or number == year),
        spans=spans,
    )


def _numbers(encoder: Encoder) -> YearTokens:
    """The form that most years have."""
    forms = [YearTokens(width, _years(encoder, width)) for width in (2, 1)]
    best = max(forms, key=lambda form: sum(len(years) for years in form.years.values()))
    if sum(len(years) for years in best.years.values()) < FEWEST_YEARS:
        shown = encoder.show(encoder.plain(["the year 1732"])[0])
        raise PromptError(
            f"greater-than needs a tokenizer that splits years into 17|32 or into digits; {encoder.model} splits them "
            f"differently ({shown}): use a .jsonl file of your own prompts."
        )
    return best


def _years(encoder: Encoder, width: int) -> dict[str, tuple[str, ...]]:
    """The usable years YY of each century that has some: the century's tokens, then 2 / width tokens more."""
    if any(answer_token(encoder, f"the year {CENTURIES[-1]}", number) is None for number in _continuations(width)):
        return {}
    # of digits the first must have smaller and greater ones; the corrupted year, 01, must be split in the same way
    asked = [f"{year:02}" for year in (range(2, 99) if width == 2 else range(10, 90))]
    found = {}
    for century in CENTURIES:
        before, *split = encoder.plain([f"the year {century}{year}" for year in ("", LOW, *asked)])
        low, *usable = (ids[: len(before)] == before and len(ids) == len(before) + 2 // width for ids in split)
        years = tuple(year for year, fits in zip(asked, usable, strict=True) if fits)
        if low and years:
            found[century] = years
    return found


def _continuations(width: int) -> list[str]:
    """All numbers with a given count of digits, ascending."""
    return [f"{number:0{width}}" for number in range(10**width)]
