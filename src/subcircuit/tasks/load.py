"""Tasks by name or from a file."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from subcircuit.entry import entry
from subcircuit.errors import SettingsError, UnknownNameError
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.capital_of import capital_of
from subcircuit.tasks.docstring import docstring
from subcircuit.tasks.draw import TooFewPromptsError
from subcircuit.tasks.encoding import BosPolicy
from subcircuit.tasks.gendered_pronoun import gendered_pronoun
from subcircuit.tasks.greater_than import greater_than
from subcircuit.tasks.induction import induction
from subcircuit.tasks.ioi import ioi
from subcircuit.tasks.jsonl import jsonl, read_pairs
from subcircuit.tasks.overlap import without
from subcircuit.tasks.sva import sva
from subcircuit.tasks.task import Task, check_vocabulary

DEFAULT_EXAMPLES = 8
_FEWEST = 2  # prompts that can be divided


@dataclass(frozen=True)
class BuiltInTask:
    """A task that comes with the package.

    Args:
        name: to ask for it by.
        description: one line.
        make: from a model, ``examples``, ``seed`` and ``bos`` to the task.
    """

    name: str
    description: str
    make: Callable[..., Task]


_BUILT_IN = (
    BuiltInTask("ioi", "indirect object identification: Mary and John …, John gave a drink to -> Mary (Wang et al. 2022)", ioi),
    BuiltInTask(
        "induction", "random tokens repeated: the second copy continues as the first did (Olsson et al. 2022)", induction
    ),
    BuiltInTask("sva", "subject-verb agreement: The doctors behind the tree -> are (Finlayson et al. 2021)", sva),
    BuiltInTask(
        "greater_than",
        "from the year 1732 to the year 17 -> a number above 32, or its first digit (Hanna et al. 2023)",
        greater_than,
    ),
    BuiltInTask("docstring", "the next argument of a Python function in its docstring (Heimersheim & Janiak 2023)", docstring),
    BuiltInTask("gendered_pronoun", "So Sarah is a really nice person, isn't -> she (Mathwin et al. 2023)", gendered_pronoun),
    BuiltInTask("capital_of", "recall of a fact: The capital of France is -> Paris (after Meng et al. 2022)", capital_of),
)


def tasks() -> tuple[BuiltInTask, ...]:
    """The built-in tasks."""
    return _BUILT_IN


def check_task(source: str | Path) -> None:
    """Refuse a task that cannot be loaded for any model: an unknown name, a file that is not there.

    Raises:
        UnknownNameError: neither a built-in task nor a ``.jsonl`` path; the nearest names are suggested.
        PromptError: the file cannot be read, or is not what it should be.
    """
    if is_prompt_file(source):
        read_pairs(Path(source).expanduser())
    else:
        _built_in(str(source))


def _built_in(name: str) -> BuiltInTask:
    for task in _BUILT_IN:
        if task.name == name:
            return task
    raise UnknownNameError("task", name, (*(task.name for task in _BUILT_IN), "a path that ends in .jsonl"))


@entry
def load_task(
    source: str | Path, model: Transformer, *, examples: int | None = None, seed: int = 0, bos: BosPolicy = "auto"
) -> Task:
    """A built-in task, or one from a prompt file.

    Args:
        source: a name from `tasks`, or the path of a ``.jsonl`` file, in small or capital letters.
        model: the task is tokenised for it and put on its device.
        examples: how many; None is 8 for built-in tasks and all for a file, of which otherwise the first are taken.
        seed: of built-in tasks; a file's pairs are taken as they come.
        bos: whether prompts begin with the beginning-of-sequence token: see `make_encoder`.

    Raises:
        UnknownNameError: neither a built-in task nor a ``.jsonl`` path; the nearest names are suggested.
        PromptError, SettingsError: as the task's own function says.

    >>> load_task("ioi", model, examples=4).pairs[0].clean  # doctest: +SKIP
    'Then, Mary and John went to the store. John gave a drink to'
    """
    if is_prompt_file(source):
        return jsonl(Path(source).expanduser(), model, examples=examples, bos=bos)
    return _built_in(str(source)).make(model, examples=DEFAULT_EXAMPLES if examples is None else examples, seed=seed, bos=bos)


def is_prompt_file(source: str | Path) -> bool:
    """Whether a task is a prompt file, which the end of its name says, and not a built-in one."""
    return str(source).lower().endswith(".jsonl")


@entry
def load_at_most(source: str | Path, model: Transformer, *, examples: int, seed: int = 0, bos: BosPolicy = "auto") -> Task:
    """The first so many prompts of a task, or all of them where it has fewer; otherwise as `load_task`."""
    if is_prompt_file(source):
        task = load_task(source, model, bos=bos)
        count = min(examples, len(task))
        return replace(task[:count], parameters={**task.parameters, "examples": count})
    try:
        return load_task(source, model, examples=examples, seed=seed, bos=bos)
    except TooFewPromptsError as few:
        return load_task(source, model, examples=few.found, seed=seed, bos=bos)


@entry
def load_two(
    source: str | Path,
    model: Transformer,
    *,
    examples: int | None,
    default: int,
    others: int,
    seed: int = 0,
    bos: BosPolicy = "auto",
) -> tuple[Task, Task]:
    """A task's prompts to work with, and others to judge by.

    Args:
        source, seed, bos: as in `load_task`; the others are drawn with the next seed.
        examples: how many to work with; None is ``default``, or half of the prompts where there are not enough for both.
        others: how many to judge by, at most.

    Raises:
        SettingsError: there is only one prompt, or none is left to judge by.
        UnknownNameError, PromptError: as in `load_task`.
    """
    if examples is None:
        there = len(load_at_most(source, model, examples=default + others, seed=seed, bos=bos))
        if there < _FEWEST:
            raise SettingsError(
                f"{Path(source).name} has {there} pair of prompts: one to work with and one to judge by are needed."
            )
        examples = default if there == default + others else min(default, (there + 1) // 2)
    found = load_task(source, model, examples=examples, seed=seed, bos=bos)
    return found, load_held_out(source, model, found, examples=others, seed=seed + 1, bos=bos)


@entry
def load_held_out(
    source: str | Path, model: Transformer, other: Task, *, examples: int, seed: int = 1, bos: BosPolicy = "auto"
) -> Task:
    """A task's prompts without those of another draw: to judge what was found with the other.

    Args:
        source, bos: as in `load_task`.
        other: the prompts that must not occur.
        examples: how many at most; a file or a small task may have fewer left.
        seed: of built-in tasks.

    Raises:
        SettingsError: no prompt is left.
        UnknownNameError, PromptError: as in `load_task`.
    """
    check_vocabulary(model, other)
    if is_prompt_file(source):
        drawn = load_task(source, model, bos=bos)
    else:
        drawn = load_at_most(source, model, examples=examples + len(other), seed=seed, bos=bos)
    rest = without(drawn, other)
    return rest[: min(examples, len(rest))]
