"""Docstrings name a function's arguments in order (Heimersheim & Janiak 2023, "A circuit for Python docstrings").

    clean       def port(self, load, size, files, last):        -> " files"
                    \"\"\"oil column piece

                    :param load: crime population
                    :param size: unit dark
                    :param
    corrupted   the same with other arguments, and with yet others in the docstring, so that nothing is repeated

The right answer is the argument after the last one documented. Wrong answers are the three other arguments and the five
names of the corrupted prompt. Arguments are single tokens in the model at hand; the other words may be any number of tokens,
and are the same in both prompts. The metric is the logit difference: the right logit minus the mean of wrong ones. The
source subtracts the largest wrong one, whose sign is `accuracy`.

Roles, after the source: A_def, B_def, C_def, D_def (arguments in the definition), A_doc, B_doc (in the docstring), END.
"""

from random import Random

from subcircuit.entry import entry
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.build import build_task
from subcircuit.tasks.draw import check_enough, draw_distinct, whole_words
from subcircuit.tasks.encoding import BosPolicy, make_encoder
from subcircuit.tasks.roles import filled
from subcircuit.tasks.task import PromptPair, Task

TEMPLATE = '''def {name}(self, {a}, {b}, {c}, {d}):
    """{title}

    :param {x}: {about_x}
    :param {y}: {about_y}
    :param'''
# fmt: off
ARGUMENTS = (
    "action", "address", "age", "area", "base", "body", "book", "box", "card", "case", "cell", "city", "code", "color",
    "command", "content", "control", "cost", "course", "data", "date", "day", "distance", "event", "field", "files", "group",
    "image", "input", "item", "job", "key", "language", "last", "level", "limit", "line", "list", "load", "location", "message",
    "method", "model", "month", "name", "node", "number", "object", "order", "page", "path", "plan", "point", "position",
    "price", "project", "range", "record", "result", "role", "search", "section", "series", "service", "shape", "size",
    "source", "space", "speed", "start", "state", "step", "style", "table", "target", "test", "text", "time", "title", "type",
    "unit", "user", "value", "version", "view", "volume", "week", "word", "year",
)
WORDS = (
    "air", "bank", "beach", "bird", "bridge", "camera", "church", "column", "corn", "crime", "dark", "dinner", "dog", "dream",
    "dust", "engine", "family", "farm", "fire", "fish", "flower", "forest", "garden", "glass", "gold", "hair", "heart", "hotel",
    "island", "king", "lake", "leather", "milk", "moon", "mother", "music", "night", "oil", "paper", "piece", "population",
    "queen", "rain", "river", "sand", "shop", "silver", "snow", "spring", "stone", "storm", "summer", "sun", "tree", "village",
    "wall", "war", "water", "wind", "winter", "wood",
)
NAMES = ("call", "check", "create", "find", "get", "load", "make", "open", "port", "read", "run", "send", "update", "write")
# fmt: on
FEWEST_ARGUMENTS = 10
ROLES = {"a": "A_def", "b": "B_def", "c": "C_def", "d": "D_def", "x": "A_doc", "y": "B_doc"}


@entry
def docstring(model: Transformer, *, examples: int = 8, seed: int = 0, bos: BosPolicy = "auto") -> Task:
    """Docstrings for any model whose tokenizer has enough arguments of one token.

    There are more prompts than anybody will ask for.

    Args:
        model: whose tokenizer decides which arguments can be used.
        examples: prompts to make, all different.
        seed: of the choice of words.
        bos: see `make_encoder`.

    Raises:
        SettingsError: not a positive number of examples.
        PromptError: the model has no tokenizer, or too few arguments are one token in it.
    """
    arguments, random = whole_words(make_encoder(model, bos), ARGUMENTS), Random(seed)
    check_enough(arguments, ARGUMENTS, FEWEST_ARGUMENTS, "argument names", "docstring", model.name)
    pairs = draw_distinct(lambda _: _draw_pair(arguments, random), examples, "docstring")
    parameters = {"examples": examples, "seed": seed}
    return build_task("docstring", pairs, model, parameters=parameters, bos=bos, metric="logit_difference")


def _draw_pair(arguments: tuple[str, ...], random: Random) -> PromptPair:
    a, b, c, d, *others = random.sample(arguments, FEWEST_ARGUMENTS)
    title, (about_x, about_y) = " ".join(random.sample(WORDS, 3)), (" ".join(random.sample(WORDS, 2)) for _ in "xy")
    words = {"name": random.choice(NAMES), "title": title, "about_x": about_x, "about_y": about_y}
    fresh = dict(zip("abcdxy", others, strict=True))
    clean, spans = filled(TEMPLATE, ROLES, a=a, b=b, c=c, d=d, x=a, y=b, **words)
    return PromptPair(
        clean=clean,
        corrupted=TEMPLATE.format(**fresh, **words),
        answers=(f" {c}",),
        wrong_answers=tuple(f" {name}" for name in (a, b, d, *others)),
        spans=spans,
    )
