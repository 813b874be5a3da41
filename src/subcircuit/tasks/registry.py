"""Tasks by name or from a file, and the table of the named tasks.

A built-in task is a row of the table and a data file for `template_task` in ``builtin/``, or a function of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from subcircuit.entry import entry
from subcircuit.errors import UnknownNameError
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.builtin.capital_of import capital_of
from subcircuit.tasks.builtin.greater_than import greater_than
from subcircuit.tasks.builtin.induction import induction
from subcircuit.tasks.builtin.sva import sva
from subcircuit.tasks.builtin.templates import TooFewPromptsError, template_task
from subcircuit.tasks.jsonl import jsonl, read_pairs
from subcircuit.tasks.task import Task
from subcircuit.tasks.tokenizer import BosPolicy

DEFAULT_EXAMPLES = 8


@dataclass(frozen=True)
class BuiltInTask:
    """A task that comes with the package.

    Args:
        name: its name for `load_task` and the command line.
        description: one line.
        make: function that returns the task, given a model, ``examples``, ``seed`` and ``bos``.
    """

    name: str
    description: str
    make: Callable[..., Task]


_BUILT_IN = (
    BuiltInTask(
        "ioi",
        "indirect object identification: Mary and John …, John gave a drink to -> Mary (Wang et al. 2022)",
        partial(template_task, "ioi"),
    ),
    BuiltInTask(
        "induction", "random tokens repeated: the second copy continues as the first did (Olsson et al. 2022)", induction
    ),
    BuiltInTask("sva", "subject-verb agreement: The doctors behind the tree -> are (Finlayson et al. 2021)", sva),
    BuiltInTask(
        "greater_than",
        "from the year 1732 to the year 17 -> a number above 32, or its first digit (Hanna et al. 2023)",
        greater_than,
    ),
    BuiltInTask(
        "docstring",
        "the next argument of a Python function in its docstring (Heimersheim & Janiak 2023)",
        partial(template_task, "docstring"),
    ),
    BuiltInTask(
        "gendered_pronoun",
        "So Sarah is a really nice person, isn't -> she (Mathwin et al. 2023)",
        partial(template_task, "gendered_pronoun"),
    ),
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
        examples: number of pairs; None is 8 for built-in tasks and all pairs of a file. A number selects a file's first pairs.
        seed: random seed for prompts of built-in tasks; a file's pairs keep their order.
        bos: whether prompts begin with the beginning-of-sequence token: see `make_encoder`.

    Raises:
        UnknownNameError: neither a built-in task nor a ``.jsonl`` path; the nearest names are suggested.
        PromptError, SettingsError: as the task's own function says.

    Examples:
        >>> load_task("ioi", model, examples=4).pairs[0].clean  # doctest: +SKIP
        'Then, Mary and John went to the store. John gave a drink to'
    """
    if is_prompt_file(source):
        return jsonl(Path(source).expanduser(), model, examples=examples, bos=bos)
    return _built_in(str(source)).make(model, examples=DEFAULT_EXAMPLES if examples is None else examples, seed=seed, bos=bos)


def is_prompt_file(source: str | Path) -> bool:
    """Whether a source is a prompt file, by the end of its name, rather than a built-in task."""
    return str(source).lower().endswith(".jsonl")


@entry
def load_at_most(source: str | Path, model: Transformer, *, examples: int, seed: int = 0, bos: BosPolicy = "auto") -> Task:
    """At most the given number of a task's prompts, from the first, and all of them if it has fewer; otherwise as `load_task`."""
    if is_prompt_file(source):
        task = load_task(source, model, bos=bos)
        count = min(examples, len(task))
        return replace(task[:count], parameters={**task.parameters, "examples": count})
    try:
        return load_task(source, model, examples=examples, seed=seed, bos=bos)
    except TooFewPromptsError as few:
        return load_task(source, model, examples=few.found, seed=seed, bos=bos)
