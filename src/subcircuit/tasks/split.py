"""Splits of a task's prompts into three disjoint parts: search, validation (choice of a size) and test.

A built-in task generates new prompts on demand. The search prompts are those of `load_task`. The others are drawn with the next
seed and exclude the search prompts: test prompts first, then validation prompts. A prompt file is divided: its distinct clean
prompts are shuffled and assigned by shares, 50/20/30 by default; every part keeps the order of the file. Pairs with the same
clean prompt (as token ids) go to the same part.

Prompts are compared as token ids. Pairs with the same clean prompt count as the same, whatever their counterparts: the prompts
on which a circuit was found should not also test it, and two random draws of the same task can share prompts.

Minimum: 3 search prompts, 1 validation prompt and 2 test prompts, so 6 in all. An interval needs at least two prompts; an
interval of so few is still too narrow (`evaluate/bootstrap.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from random import Random
from typing import TypeAlias, cast, get_args

import torch

from subcircuit.entry import entry
from subcircuit.errors import SettingsError
from subcircuit.graph import PartRecord, SplitRecord, SplitSettings, TaskRecord
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.registry import is_prompt_file, load_at_most, load_task
from subcircuit.tasks.shares import (
    FEWEST,
    FILE_SHARES,
    Sizes,
    apportion,
    check_shares,
    fewest_of,
    in_proportion,
    parse_shares,
)
from subcircuit.tasks.task import Task, check_vocabulary
from subcircuit.tasks.tokenizer import BosPolicy

Prompt: TypeAlias = tuple[int, ...]

PARTS = ("search", "validation", "test")

# of a built-in task, unless shares are given
VALIDATION, TEST = 16, 64
# of a file of which only the first pairs are searched: the rest may be thousands, and every one is measured
MOST_VALIDATION, MOST_TEST = 64, 256
_ALL = "To search on all prompts and evaluate on none: --split 100/0/0."


@dataclass(frozen=True, eq=False)
class Split:
    """A task's prompts in parts that have no clean prompt in common. Make one with `load_split`, or from tasks of your own.

    Args:
        search: the prompts of the search.
        validation: the prompts for the choice of a size or a setting; None if there are none.
        test: the prompts for evaluation, used for no choice; None if there are none.
        settings: everything needed to make the split again from its source; None for a split made from tasks directly.

    Raises:
        SettingsError: two parts share a prompt, or are of different tasks.
    """

    search: Task
    validation: Task | None
    test: Task | None
    settings: SplitSettings | None = None

    def __post_init__(self) -> None:
        for (one, a), (other, b) in combinations(self.parts.items(), 2):
            _check_same_task(f"{one} prompts", a, f"{other} prompts", b)
            shared = shared_prompts(a, b)
            if shared:
                raise SettingsError(
                    f"{one} and {other} prompts of {a.name} have {shared} prompts in common, and a circuit cannot be evaluated on the prompts it was "
                    "found on: remove the shared prompts from one part with `without`."
                )

    @property
    def parts(self) -> dict[str, Task]:
        """The parts that are not None, by name."""
        return {name: part for name in PARTS if (part := getattr(self, name)) is not None}

    def to(self, device: torch.device | str) -> "Split":
        """The same split on another device."""
        return replace(self, **{name: task.to(device) for name, task in self.parts.items()})


def split_record(split: Split) -> SplitRecord:
    """The split's entry in a circuit's record."""
    parts = {name: PartRecord(examples=len(part), digest=part.digest) for name, part in split.parts.items()}
    return SplitRecord(settings=split.settings, search=parts.pop("search"), **parts)


def split_again(record: TaskRecord, source: str | Path, model: Transformer) -> Split | None:
    """The split of a circuit's search, made again from its source; None if the source now gives other prompts.

    Raises:
        UnknownNameError, PromptError: as in `load_task`.
    """
    if record.split is None or record.split.settings is None:
        return None
    try:
        split = _load(source, model, record.split.settings)
    except SettingsError:
        # another file of this name may have too few prompts
        return None
    return split if split_record(split) == record.split else None


@entry
def load_split(
    source: str | Path,
    model: Transformer,
    *,
    examples: int | None = None,
    seed: int = 0,
    bos: BosPolicy = "auto",
    split: str | Sequence[float | int] | None = None,
    test: int | None = None,
) -> Split:
    """A task's search, validation and test prompts, none of them in two parts.

    Args:
        source: a name from `tasks`, or the path of a ``.jsonl`` file.
        model: the task is tokenised for it and put on its device.
        examples: number of search prompts. Default: 8 for a built-in task, the search share for a file. A number given for a
            file selects its first pairs.
        seed: random seed for prompts of built-in tasks, and for the order in which a file's prompts are assigned.
        bos: as in `load_task`.
        split: shares of search, validation and test prompts in percent, such as ``"50/20/30"``. None: 50/20/30 for a file, and
            16 validation and 64 test prompts for a built-in task. A part whose share is 0 is left out. With ``examples``, and
            for a built-in task, the shares set the sizes of the other parts relative to the search prompts.
        test: number of test prompts, for a file the maximum; None follows the shares.

    Raises:
        SettingsError: there are too few distinct prompts, or the shares are invalid.
        UnknownNameError, PromptError: as in `load_task`.

    Examples:
        >>> split = load_split("ioi", model, examples=32)  # doctest: +SKIP
        >>> len(split.search), len(split.validation), len(split.test)  # doctest: +SKIP
        (32, 16, 64)
    """
    shares = None if split is None else parse_shares(split) if isinstance(split, str) else check_shares(split)
    if test is not None and test < FEWEST[2]:
        raise SettingsError(f"test is {test}: at least {FEWEST[2]} test prompts are needed for a confidence interval")
    return _load(source, model, SplitSettings(examples=examples, seed=seed, bos=bos, split=shares, test=test))


def _load(source: str | Path, model: Transformer, made: SplitSettings) -> Split:
    shares, file = made.split, is_prompt_file(source)
    load = partial(load_task, source, model, bos=_bos(made))
    if file and made.examples is None and (shares is None or any(shares[1:])):
        return _dealt(load(), made)
    search = load(examples=made.examples, seed=made.seed)
    if shares is not None and not any(shares[1:]):
        return Split(search, None, None, made)
    if file:
        return _beside(search, load(), made)
    validation, test = (VALIDATION, TEST) if shares is None else in_proportion(len(search), shares)
    wanted = (validation, test if made.test is None else made.test)
    drawn = load_at_most(source, model, examples=sum(wanted) + len(search), seed=made.seed + 1, bos=_bos(made))
    return _drawn(search, drawn, wanted, made)


def _bos(made: SplitSettings) -> BosPolicy:
    if made.bos not in get_args(BosPolicy):
        raise SettingsError(f"bos is {made.bos!r}; it must be one of {', '.join(get_args(BosPolicy))}.")
    return cast(BosPolicy, made.bos)


def _dealt(task: Task, made: SplitSettings) -> Split:
    """A file's pairs by shares."""
    shares = made.split or FILE_SHARES
    prompts, fewest = _different(task), fewest_of(shares)
    if len(prompts) < sum(fewest):
        raise SettingsError(f"{_source(task)} has {_count(prompts)}, and {_needs(fewest)}. Add pairs. {_ALL}")
    sizes = apportion(len(prompts), shares, fewest)
    search, validation, test = _parts(task, _shuffled(prompts, made), _at_most(sizes, made.test), made)
    assert search is not None
    return Split(search, validation, test, made)


def _beside(search: Task, task: Task, made: SplitSettings) -> Split:
    """A file's first pairs, and the rest by the shares of the other two parts."""
    shares = made.split or FILE_SHARES
    rest, fewest = _different(task, search), fewest_of((0, *shares[1:]))
    if len(rest) < sum(fewest):
        raise SettingsError(
            f"{_source(task)} has {_count(rest)} besides the {len(search)} search pairs, and {_needs(fewest)}. "
            f"Search with fewer (--examples), or add pairs. {_ALL}"
        )
    _, validation, test = apportion(len(rest), (0, *shares[1:]), fewest)
    wanted = in_proportion(len(search), shares)
    sizes = (0, min(validation, max(MOST_VALIDATION, wanted[0])), min(test, max(MOST_TEST, wanted[1])))
    _, *parts = _parts(task, _shuffled(rest, made), _at_most(sizes, made.test), made)
    return Split(search, parts[0], parts[1], made)


def _drawn(search: Task, drawn: Task, wanted: tuple[int, int], made: SplitSettings) -> Split:
    """Validation and test prompts from another draw, without the search prompts."""
    rest, fewest = _different(drawn, search), fewest_of((0, *wanted))
    if len(rest) < sum(fewest):
        raise SettingsError(
            f"task {search.name} has {_count(rest)} besides the {len(search)} search prompts, and {_needs(fewest)}. "
            f"Search with fewer (--examples). {_ALL}"
        )
    _, validation, test = (0, *wanted) if len(rest) >= sum(wanted) else apportion(len(rest), (0, *wanted), fewest)
    # test prompts come first: they do not depend on the number of validation prompts
    order = [*rest[test : test + validation], *rest[:test]]
    _, *parts = _parts(without(drawn, search), order, (0, validation, test), made)
    return Split(search, parts[0], parts[1], made)


def _parts(task: Task, order: Sequence[Prompt], sizes: Sizes, made: SplitSettings) -> list[Task | None]:
    """The pairs of the first prompts in the order, of the next, and of those after them; None for a part without prompts."""
    parts: list[Task | None] = []
    start = 0
    for name, size in zip(PARTS, sizes, strict=True):
        wanted = set(order[start : start + size])
        start += size
        part = _where(task, [prompt in wanted for prompt in _prompts(task)])
        parts.append(None if part is None else _named(part, name, made))
    return parts


def _named(part: Task, name: str, made: SplitSettings) -> Task:
    """The part, with its name among its parameters."""
    return replace(
        part, parameters={**part.parameters, "examples": len(part), "split": {"part": name, **made.model_dump(mode="json")}}
    )


def _shuffled(prompts: Sequence[Prompt], made: SplitSettings) -> list[Prompt]:
    return Random(made.seed).sample(prompts, len(prompts))


def _different(task: Task, other: Task | None = None) -> list[Prompt]:
    """A task's distinct clean prompts, in order, without those of another task."""
    taken = set() if other is None else set(_prompts(other))
    return [prompt for prompt in dict.fromkeys(_prompts(task)) if prompt not in taken]


def _at_most(sizes: Sizes, test: int | None) -> Sizes:
    return sizes if test is None else (*sizes[:2], min(sizes[2], test))


def _check_same_task(one: str, a: Task, other: str, b: Task) -> None:
    # prompt files are named after themselves: three files may well be one task
    files = "file" in a.parameters and "file" in b.parameters
    if (a.name != b.name and not files) or a.metric != b.metric:
        raise SettingsError(
            f"the {one} are of task {a.name} (metric {a.metric}), the {other} of task {b.name} (metric {b.metric}): "
            "a split is made of one task."
        )
    made_for, also = a.vocabulary, b.vocabulary
    if made_for is not None and also is not None and (made_for.tokenizer, made_for.size) != (also.tokenizer, also.size):
        raise SettingsError(
            f"the {one} were made for {made_for.model}, the {other} for {also.model}, which has another tokenizer."
        )


def _count(prompts: Sequence[object]) -> str:
    return f"{len(prompts)} different {'prompt' if len(prompts) == 1 else 'prompts'}"


def _needs(fewest: Sizes) -> str:
    words = ("for the search", "for validation", "for the test")
    parts = ", ".join(f"{least} {word}" for least, word in zip(fewest, words, strict=True) if least)
    return f"a split needs at least {sum(fewest)}: {parts}"


def _source(task: Task) -> str:
    return str(task.parameters.get("file", task.name))


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
    """A task's prompts for the work itself, and other prompts for its evaluation.

    Args:
        source, seed, bos: as in `load_task`; the evaluation prompts are drawn with the next seed.
        examples: number of prompts for the work; None is ``default``, or half of the prompts if there are too few for both.
        others: maximum number of evaluation prompts.

    Raises:
        SettingsError: there is only one prompt, or none is left for evaluation.
        UnknownNameError, PromptError: as in `load_task`.
    """
    if examples is None:
        there = len(load_at_most(source, model, examples=default + others, seed=seed, bos=bos))
        if there < 2:
            raise SettingsError(
                f"{Path(source).name} has {there} pair of prompts: at least 2 are needed, one for the work and one for its evaluation."
            )
        examples = default if there == default + others else min(default, (there + 1) // 2)
    found = load_task(source, model, examples=examples, seed=seed, bos=bos)
    return found, load_held_out(source, model, found, examples=others, seed=seed + 1, bos=bos)


@entry
def load_held_out(
    source: str | Path, model: Transformer, other: Task, *, examples: int, seed: int = 1, bos: BosPolicy = "auto"
) -> Task:
    """A task's prompts without those of another draw, to evaluate a circuit that was found on the other draw.

    Args:
        source, bos: as in `load_task`.
        other: the prompts that must not occur.
        examples: maximum number; a file or a small task may have fewer left.
        seed: random seed for prompts of built-in tasks.

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


def shared_prompts(a: Task, b: Task) -> int:
    """Number of clean prompts that two tasks have in common; a prompt that a task repeats counts once."""
    return len({*_prompts(a)} & {*_prompts(b)})


def without(task: Task, other: Task) -> Task:
    """The pairs of a task whose clean prompt is not among those of the other task.

    The parameters record the other task under ``without``.

    Raises:
        SettingsError: no pair is left.
    """
    taken = set(_prompts(other))
    rest = _where(task, [prompt not in taken for prompt in _prompts(task)])
    if rest is None:
        raise SettingsError(
            f"all {len(task)} prompts of task {task.name} occur in the other task too, so none is left for evaluation: search on fewer "
            "prompts, or add more."
        )
    left_out = {"task": other.name, "parameters": dict(other.parameters)}
    return replace(rest, parameters={**task.parameters, "without": left_out})


def _prompts(task: Task) -> list[Prompt]:
    """The clean prompts as token ids. Pairs with the same clean prompt count as the same, whatever their counterparts."""
    return [tuple(prompt) for prompt in task.clean.to_lists()]


def _where(task: Task, wanted: Sequence[bool]) -> Task | None:
    """The selected pairs; None if there are none."""
    return task.where(torch.tensor(wanted, device=task.clean.ids.device)) if any(wanted) else None
