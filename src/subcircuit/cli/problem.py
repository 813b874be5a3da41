"""The problem of a circuit on disk: its model, and prompts for its evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from subcircuit.errors import GraphError, ModelError, SettingsError, SubcircuitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from subcircuit.graph import Circuit, ModelRecord, Record
    from subcircuit.model import Transformer
    from subcircuit.search import Problem
    from subcircuit.tasks import BosPolicy, Split, Task


@dataclass(frozen=True)
class Overrides:
    """Command-line overrides of the recorded spec; None keeps the recorded value."""

    model: str | None = None
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    task: str | None = None
    examples: int | None = None
    seed: int | None = None
    metric: str | None = None
    ablation: str | None = None


def ready(path: Path, given: Overrides, examples: int, say: "Callable[[str], None]") -> "tuple[Circuit, Problem, int]":
    """A circuit, its problem on evaluation prompts, and the number of these that are search prompts of the circuit.

    Args:
        examples: number of evaluation prompts if the user gives none.
        say: called with progress, and with a warning if search prompts are among the evaluation prompts.

    Raises:
        SettingsError: the record lacks the model or the task, or they are not found under the recorded names.
        GraphError: the circuit was found in another model.
    """
    from subcircuit.graph import Circuit
    from subcircuit.tasks import shared_prompts

    circuit = Circuit.load(path)
    name = task_named(path, circuit, given)
    model = load_recorded(path, circuit, given, say)
    task, found_on = _prompts(circuit, name, given, examples, model, say)
    shared = 0 if found_on is None else shared_prompts(task, found_on)
    if shared:
        say(
            f"warning: {shared} of these {len(task)} prompts were search prompts of the circuit, so the result is too good: {_way_out(task)}"
        )
    if found_on is None and circuit.record is not None and given.task is None:
        say("warning: the search prompts cannot be reproduced, so some of these prompts may be among them")
    if given.examples is not None and len(task) < given.examples:
        say(f"warning: only {len(task)} of the requested {given.examples} pairs of prompts are available")
    return circuit, _problem(circuit, given, task, model), shared


def to_look_at(path: Path, circuit: "Circuit", given: Overrides, say: "Callable[[str], None]") -> "Problem":
    """A circuit's problem on prompts for display: as many of the run's test prompts as there were search prompts.

    Without test prompts, or with a seed from the user, the prompts are those of `as_found`.

    Raises:
        SettingsError: the record lacks the model or the task, or they are not found under the recorded names.
        GraphError: the circuit was found in another model.
    """
    record = circuit.record
    if record is None or record.task.split is None or record.task.split.test is None or given.seed is not None:
        return as_found(path, circuit, given, say)
    name = task_named(path, circuit, given)
    model = load_recorded(path, circuit, given, say)
    own = split_of(circuit, name, model)
    count = record.task.split.search.examples if given.examples is None else given.examples
    if own is None:
        task, _ = _prompts(circuit, name, given, count, model, say)
    else:
        task = unseen(own, name, count, model)
        if not _fits(circuit, task):
            say("using the search prompts: this circuit has a node at each position, and the test prompts have other lengths")
            task = own.search[: min(count, len(own.search))]
    return _problem(circuit, given, task, model)


def as_found(path: Path, circuit: "Circuit", given: Overrides, say: "Callable[[str], None]") -> "Problem":
    """A circuit's problem on its search prompts.

    If the search prompts cannot be reproduced, or the user requests others, the prompts are new ones of the same task.

    Raises:
        SettingsError: the record lacks the model or the task, or they are not found under the recorded names.
        GraphError: the circuit was found in another model.
    """
    from subcircuit.tasks import load_task

    name = task_named(path, circuit, given)
    record, model = circuit.record, load_recorded(path, circuit, given, say)
    if record is None:
        task = load_task(name, model, examples=given.examples, seed=given.seed or 0)
    else:
        same = given.examples is None and given.seed is None
        task = _found_on(circuit, record, name, model) if same else None
        if same and task is None:
            say(f"warning: the search prompts of {path} cannot be reproduced, so other prompts are used")
        if task is None:
            seed = record.seed if given.seed is None else given.seed
            task = load_task(name, model, examples=given.examples, seed=seed, bos=_bos(record))
    return _problem(circuit, given, task, model)


def check_overrides(given: Overrides) -> None:
    """Refuse unknown names before a model is loaded.

    Raises:
        UnknownNameError: there is no such task, metric or ablation.
        PromptError: a file of prompts cannot be read.
    """
    from subcircuit.engine import check_ablation
    from subcircuit.tasks import check_task, metric

    checks = ((given.task, check_task), (given.metric, metric), (given.ablation, check_ablation))
    for name, check in checks:
        if name is not None:
            check(name)


def load_recorded(path: Path, circuit: "Circuit", given: Overrides, say: "Callable[[str], None]") -> "Transformer":
    """The model of a circuit, recognised by the digest of its files; or a model that the user names.

    Raises:
        SettingsError: the circuit has no record of its model.
        ModelError: the model is not found, or another model has its name.
        GraphError: the model has another graph.
    """
    from subcircuit.model import load_model
    from subcircuit.runs import model_source

    check_overrides(given)
    record = circuit.record
    if given.model is not None:
        name = given.model
    elif record is not None:
        name = model_source(path, record.model)
    else:
        raise SettingsError("the circuit has no record of its model: give --model")
    say(f"loading {name}")
    model = load_model(
        name,
        revision=given.revision or (None if given.model else _on_the_hub(record)),
        device=given.device,
        dtype=given.dtype or (record.model.dtype if record else None),
        report=say,
    )
    if unlike := circuit.graph.unlike_model(model.config):
        found_in = record.model.name if record else "another model"
        raise GraphError(f"{path} was found in {found_in}, and {name} is another model: their graphs differ in {unlike}")
    if record is not None:
        _compare(path, record.model, model, given, say)
    return model


def _compare(path: Path, recorded: "ModelRecord", model: "Transformer", given: Overrides, say: "Callable[[str], None]") -> None:
    """Refuse a model with other weights than the recorded ones, unless the user named it."""
    from subcircuit.runs import is_same_model

    if is_same_model(recorded, model) is not False:
        return
    # a model changed in memory keeps the revision of its original
    revisions = (recorded.revision, model.revision)
    was, now = (
        (str(each)[:19] for each in revisions) if len(set(revisions)) == 2 else ("other weights", "the weights of that name")
    )
    others = f"{path} was found in {recorded.name} ({was}), and {model.name} here is another model ({now})"
    if given.model is None and given.revision is None:
        raise ModelError(f"{others}: give --model to measure the circuit in that model")
    say(f"warning: {others}")


def task_named(path: Path, circuit: "Circuit", given: Overrides) -> str:
    """The task that the user names, or the recorded task: a built-in name, or the current path of its prompt file.

    Raises:
        SettingsError: the circuit has no record, and the user does not give model and task.
        PromptError: the file is not found, or has other content.
    """
    from subcircuit.runs import task_source

    for what, said in (("model", given.model), ("task", given.task)):
        if circuit.record is None and said is None:
            raise SettingsError(f"the circuit has no record of its {what}: give --{what}")
    if given.task is not None or circuit.record is None:
        return str(given.task)
    return task_source(path, circuit.record.task)


def _problem(circuit: "Circuit", given: Overrides, task: "Task", model: "Transformer") -> "Problem":
    from subcircuit.search import Problem

    return Problem.of(model, task, given.metric, given.ablation, circuit=circuit)


def _prompts(
    circuit: "Circuit", name: str, given: Overrides, examples: int, model: "Transformer", say: "Callable[[str], None]"
) -> "tuple[Task, Task | None]":
    """The evaluation prompts, and the search prompts if they can be reproduced.

    The evaluation prompts are the run's test prompts, all of them unless the user gives a number. For a run without test prompts
    they are ``examples`` prompts outside the search.
    """
    from subcircuit.tasks import load_at_most, load_held_out, load_task

    record = circuit.record
    count = examples if given.examples is None else given.examples
    if count < 1:
        raise SettingsError(f"--examples {count}: expected at least 1")
    # fewer prompts than the default are fine, fewer than the user requested are not
    load = load_at_most if given.examples is None else load_task
    if record is None:
        return load(name, model, examples=count, seed=given.seed or 0), None
    own, found_on = split_of(circuit, name, model), _found_on(circuit, record, name, model)
    if own is not None and own.test is not None and given.seed is None:
        return unseen(own, name, given.examples, model), found_on
    if own is None and record.task.split is not None and given.task is not None:
        say(
            f"warning: {name} does not give the test prompts of this run; other prompts are used, and some of them may be search prompts"
        )
    if found_on is None or given.seed is not None:
        return load(name, model, examples=count, seed=given.seed or 0, bos=_bos(record)), found_on
    try:
        return load_held_out(name, model, found_on, examples=count, seed=record.seed + 1, bos=_bos(record)), found_on
    except SettingsError:
        return found_on[: min(count, len(found_on))], found_on


def _way_out(task: "Task") -> str:
    return "add pairs to the file, or search on fewer (--examples)" if "file" in task.parameters else "choose another --seed"


def split_of(circuit: "Circuit", name: str, model: "Transformer") -> "Split | None":
    """The split of a circuit's run; None if the run had none, or the user names another task."""
    from subcircuit.tasks import split_again

    try:
        return None if circuit.record is None else split_again(circuit.record.task, name, model)
    except SubcircuitError:
        return None


def _fits(circuit: "Circuit", task: "Task") -> bool:
    from subcircuit.errors import PromptMismatchError
    from subcircuit.tasks import with_positions

    try:
        with_positions(circuit.graph, task)
    except (GraphError, PromptMismatchError):
        return False
    return True


def unseen(own: "Split", name: str, examples: int | None, model: "Transformer") -> "Task":
    """The first ``examples`` test prompts, or all; for a built-in task also more prompts outside search and validation."""
    from subcircuit.tasks import is_prompt_file, load_held_out, without

    assert own.test is not None and own.settings is not None
    count = len(own.test) if examples is None else examples
    if count < 1:
        raise SettingsError(f"--examples {count}: expected at least 1")
    if count <= len(own.test) or is_prompt_file(name):
        return own.test[: min(count, len(own.test))]
    # the order of the draw is: test prompts, validation prompts, further prompts
    more = count + (0 if own.validation is None else len(own.validation))
    drawn = load_held_out(name, model, own.search, examples=more, seed=own.settings.seed + 1, bos=_policy(own.settings.bos))
    left = drawn if own.validation is None else without(drawn, own.validation)
    return left[: min(count, len(left))]


def _found_on(circuit: "Circuit", record: "Record", name: str, model: "Transformer") -> "Task | None":
    """The search prompts; None if the user names another task."""
    from subcircuit.tasks import load_task

    own = split_of(circuit, name, model)
    if own is not None:
        return own.search
    count = record.task.parameters.get("examples")
    try:
        task = load_task(name, model, examples=count, seed=record.seed, bos=_bos(record))
    except SubcircuitError:
        return None
    return task if task.digest == record.task.digest else None


def _on_the_hub(record: "Record | None") -> str | None:
    """The recorded revision if it is a hub revision; other models record a digest of their files."""
    revision = None if record is None else record.model.revision
    return None if revision is None or revision.startswith("sha256:") else revision


def _bos(record: "Record") -> "BosPolicy":
    return _policy(str(record.task.parameters.get("bos", "auto")))


def _policy(bos: str) -> "BosPolicy":
    from subcircuit.tasks import bos_policy

    return bos_policy(bos)
