"""Shared part of `zoom`, `refine` and `stability`: searches that start from a finished circuit and its search prompts."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeAlias

from subcircuit.cli.output import Output

if TYPE_CHECKING:
    from subcircuit.graph import Circuit
    from subcircuit.runs.spec import RefineSpec, StabilitySpec, ZoomSpec
    from subcircuit.search import Discovery, OnProgress, Problem
    from subcircuit.search.journal import Journal
    from subcircuit.tasks import Split

Begin: TypeAlias = Callable[["Problem", Callable[[str], None]], Callable[..., Any]]
"""A function of a circuit's problem and of a function that prints a line; returns a search that takes a journal."""


def prepared(
    spec: "ZoomSpec | RefineSpec | StabilitySpec", circuit: "Circuit", say: Callable[[str], None]
) -> "tuple[Problem, Split | None, dict[str, Any]]":
    """A circuit's problem with validation prompts, the split of its run if it can be reproduced, and the identity of a run on them."""
    from subcircuit.cli.problem import Overrides, as_found, split_of, task_named
    from subcircuit.runs import identity

    given = Overrides(model=spec.model, revision=spec.revision, device=spec.device, dtype=spec.dtype, task=spec.task)
    problem = as_found(spec.path, circuit, given, say)
    split = split_of(circuit, task_named(spec.path, circuit, given), problem.model)
    if split is not None and split.validation is not None:
        problem = replace(problem, validation=split.validation.to(problem.model.device))
    digest = sha256("\n".join(circuit.names).encode()).hexdigest()
    return problem, split, {**identity(problem.model, split or problem.task), "circuit": digest}


def search_further(spec: "ZoomSpec | RefineSpec", circuit: "Circuit", output: Output, begin: Begin) -> None:
    """Continue the search of a circuit and write the result, with its measurements on the run's prompts."""
    from subcircuit.cli.console import messages
    from subcircuit.cli.pool import pool_of
    from subcircuit.cli.progress import in_words, watch
    from subcircuit.cli.summary import print_run
    from subcircuit.evaluate import with_numbers
    from subcircuit.graph import Circuit
    from subcircuit.runs.search import run_circuit

    record = circuit.record
    name, model = (record.task.name, record.model.name) if record else ("circuit", "model")
    directory = output.directory(name, model)
    with watch(messages()) as watcher:
        pool = pool_of(spec.workers, spec.ray, watcher.say)
        problem, split, digests = prepared(spec, circuit, watcher.say)
        search = begin(problem, watcher.say)

        def work(journal: "Journal", show: "OnProgress") -> "Discovery":
            result = pool.run(search, journal, say=watcher.say, on_step=show)
            if split is None:
                return result
            return replace(result, circuit=with_numbers(problem, result.circuit, split, journal=journal, on_step=show))

        told = {"say": watcher.say, "on_step": watcher.step, "words": in_words()}
        found = run_circuit(spec, directory, digests, work, source=output.source, begin=Circuit.empty(circuit.graph), **told)
    print_run(directory, found, as_json=output.json, given={"model": spec.model, "task": spec.task})
