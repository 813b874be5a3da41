"""Capitals: recall of a fact about a country (after the factual prompts of Meng et al. 2022, arXiv 2202.05262).

    clean       The capital of France is    -> " Paris", not " Rome"
    corrupted   The capital of Italy is

The corrupted prompt names another country of as many tokens, whose capital is the wrong answer. Capitals are single tokens
in the model at hand. The metric is the logit difference. Roles: country (all of its tokens), END.
"""

from collections import Counter
from collections.abc import Mapping
from random import Random

from subcircuit.entry import entry
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.builtin.templates import check_enough, draw_distinct, single_tokens
from subcircuit.tasks.prompts import build_task
from subcircuit.tasks.roles import filled
from subcircuit.tasks.task import PromptPair, Task
from subcircuit.tasks.tokenizer import BosPolicy, Encoder, make_encoder

TEMPLATES = (
    "The capital of {country} is",
    "The capital of {country} is the city of",
    "The capital city of {country} is",
    "The capital city of {country} is called",
    "Geography lesson: the capital of {country} is",
    "Q: What is the capital of {country}?\nA: The capital of {country} is",
)
# fmt: off
CAPITALS: dict[str, str] = {
    "Afghanistan": "Kabul", "Albania": "Tirana", "Algeria": "Algiers", "Armenia": "Yerevan",
    "Austria": "Vienna", "Azerbaijan": "Baku", "Bangladesh": "Dhaka", "Belarus": "Minsk", "Belgium": "Brussels",
    "Bulgaria": "Sofia", "Canada": "Ottawa", "Chile": "Santiago", "China": "Beijing", "Colombia": "Bogotá",
    "Croatia": "Zagreb", "Cuba": "Havana", "Cyprus": "Nicosia", "Denmark": "Copenhagen", "Ecuador": "Quito", "Egypt": "Cairo",
    "England": "London", "Estonia": "Tallinn", "Finland": "Helsinki", "France": "Paris", "Georgia": "Tbilisi",
    "Germany": "Berlin", "Greece": "Athens", "Hungary": "Budapest", "Iceland": "Reykjavik", "Indonesia": "Jakarta",
    "Iran": "Tehran", "Iraq": "Baghdad", "Ireland": "Dublin", "Italy": "Rome", "Japan": "Tokyo", "Jordan": "Amman",
    "Kenya": "Nairobi", "Latvia": "Riga", "Lebanon": "Beirut", "Libya": "Tripoli", "Lithuania": "Vilnius", "Morocco": "Rabat",
    "Nepal": "Kathmandu", "Nigeria": "Abuja", "Norway": "Oslo", "Pakistan": "Islamabad", "Peru": "Lima",
    "Poland": "Warsaw", "Portugal": "Lisbon", "Romania": "Bucharest", "Russia": "Moscow",
    "Scotland": "Edinburgh", "Serbia": "Belgrade", "Somalia": "Mogadishu", "South Korea": "Seoul", "Spain": "Madrid",
    "Sudan": "Khartoum", "Sweden": "Stockholm", "Syria": "Damascus", "Thailand": "Bangkok",
    "Tunisia": "Tunis", "Turkey": "Ankara", "Ukraine": "Kyiv", "Venezuela": "Caracas", "Vietnam": "Hanoi", "Wales": "Cardiff",
    "Zimbabwe": "Harare",
}
# fmt: on
FEWEST_COUNTRIES = 4


@entry
def capital_of(model: Transformer, *, examples: int = 8, seed: int = 0, bos: BosPolicy = "auto") -> Task:
    """The capital-of task, for any model in whose tokenizer enough capitals are one token.

    There are six prompts for every usable country.

    Args:
        model: whose tokenizer decides which countries can be used.
        examples: prompts to make, all different.
        seed: random seed for the choice of countries and templates.
        bos: see `make_encoder`.

    Raises:
        SettingsError: not a positive number of examples, or more than can be told apart.
        PromptError: the model has no tokenizer, or too few capitals are one token in it.
    """
    encoder, random = make_encoder(model, bos), Random(seed)
    lengths = _usable(encoder)
    check_enough(tuple(lengths), tuple(CAPITALS), FEWEST_COUNTRIES, "capitals", "capital-of", model.name)

    def draw(count: int) -> PromptPair:
        country, template = random.choice(tuple(lengths)), random.choice(TEMPLATES)
        other = random.choice([name for name, length in lengths.items() if length == lengths[country] and name != country])
        clean, spans = filled(template, {"country": "country"}, country=country)
        return PromptPair(
            clean=clean,
            corrupted=template.format(country=other),
            answers=(f" {CAPITALS[country]}",),
            wrong_answers=(f" {CAPITALS[other]}",),
            spans=spans,
        )

    pairs = draw_distinct(draw, examples, "capital-of")
    parameters = {"examples": examples, "seed": seed}
    return build_task("capital_of", pairs, model, parameters=parameters, bos=bos, metric="logit_difference")


def _usable(encoder: Encoder) -> Mapping[str, int]:
    """Countries whose capital is one token, each with its number of tokens, which another country must share."""
    capitals = set(single_tokens(encoder, tuple(CAPITALS.values())))
    countries = [country for country, capital in CAPITALS.items() if capital in capitals]
    lengths = [len(ids) for ids in encoder.plain([f" {country}" for country in countries])]
    shared = Counter(lengths)
    return {country: length for country, length in zip(countries, lengths, strict=True) if shared[length] > 1}
