"""Induction on repeated random tokens (Olsson et al. 2022, arXiv 2209.11895).

    clean       s1 s2 … sn  s1 s2 … s(n-1)      at each si of the second copy the next token is s(i+1)
    corrupted   r1 r2 … rn  s1 s2 … s(n-1)      the second copy repeats nothing

All 2n tokens of an example are different, so the only clue is the first copy. Answers are read at every position of the
second copy, whose last token is left out because nothing would be read there. The wrong answer is r(i+1), what the
corrupted prompt has in that place. Tokens are drawn from the vocabulary without special and added ones; no text is
involved, and models without a tokenizer will do. Roles: first (the first copy), END (the second, where answers are read).
"""

from random import Random

from subcircuit.entry import entry
from subcircuit.errors import SettingsError
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.prompts import build_task_of_ids
from subcircuit.tasks.task import Answer, Task
from subcircuit.tasks.tokenizer import BosPolicy, bos_prefix, ordinary_tokens


@entry
def induction(model: Transformer, *, examples: int = 8, seed: int = 0, bos: BosPolicy = "auto", length: int = 10) -> Task:
    """Repeated random tokens.

    Args:
        model: the model whose vocabulary the tokens come from.
        examples: number of prompts.
        seed: random seed for the tokens.
        bos: see `make_encoder`; a model without a tokenizer has none to add.
        length: n, tokens per copy.

    Raises:
        SettingsError: not a positive number of examples, fewer than 2 tokens per copy, more than the context or the
            vocabulary holds, or a BOS policy that does not fit the tokenizer.
    """
    if examples < 1 or length < 2:
        raise SettingsError(
            f"examples is {examples} and length is {length}: induction needs at least 1 example and 2 tokens per copy."
        )
    prefix, ordinary, random = bos_prefix(model.tokenizer, bos, model.name), ordinary_tokens(model), Random(seed)
    tokens = len(prefix) + 2 * length - 1
    if tokens > model.config.context or 2 * length > len(ordinary):
        raise SettingsError(
            f"length={length} makes prompts of {tokens} tokens, {2 * length} of them different; {model.name} reads at most "
            f"{model.config.context} tokens and has {len(ordinary)} ordinary tokens: choose a smaller length."
        )
    clean, corrupted, answers, roles = [], [], [], []
    for example in range(examples):
        drawn = random.sample(ordinary, 2 * length)
        first, other = drawn[:length], drawn[length:]
        clean.append([*prefix, *first, *first[:-1]])
        corrupted.append([*prefix, *other, *first[:-1]])
        start = len(prefix) + length
        roles.append({"first": range(len(prefix), start)})
        answers += [Answer(example, start + i, (first[i + 1],), (other[i + 1],)) for i in range(length - 1)]
    parameters = {"examples": examples, "seed": seed, "bos": bos, "length": length}
    return build_task_of_ids("induction", clean, corrupted, answers, model, parameters=parameters, roles=roles)
