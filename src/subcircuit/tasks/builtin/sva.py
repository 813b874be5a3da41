"""Subject-verb agreement, with all sentence structures or a selection; ``sva.toml`` holds the description and the source."""

from collections.abc import Sequence

from subcircuit.entry import entry
from subcircuit.errors import SettingsError, UnknownNameError
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.builtin.templates import build_templates, templates_of
from subcircuit.tasks.task import Task
from subcircuit.tasks.tokenizer import BosPolicy

STRUCTURES = ("simple", "across_pp", "within_rc", "across_rc")


@entry
def sva(
    model: Transformer,
    *,
    examples: int = 8,
    seed: int = 0,
    bos: BosPolicy = "auto",
    structures: Sequence[str] = STRUCTURES,
) -> Task:
    """Subject-verb agreement for any model whose tokenizer has enough nouns of one token in both numbers.

    All structures together give thousands of prompts; ``simple`` alone gives two per usable noun, 60 at most.

    Args:
        model: whose tokenizer decides which nouns can be used.
        examples: prompts to make, all different, singular and plural subjects in turn.
        seed: random seed for the choice of words and structures.
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
            raise UnknownNameError("structure", name, STRUCTURES)
    source = templates_of("sva")
    assert isinstance(source.templates, dict)
    chosen = source.model_copy(update={"templates": tuple(source.templates[name] for name in structures)})
    parameters = {"examples": examples, "seed": seed, "structures": list(structures)}
    return build_templates("sva", chosen, model, parameters, bos)
