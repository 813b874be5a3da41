"""Shared part of `zoom` and `refine`: continue the search of a finished circuit on its search prompts."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeAlias

from subcircuit.cli.output import Output

if TYPE_CHECKING:
    from subcircuit.graph import Circuit
    from subcircuit.runs.spec import RefineSpec, ZoomSpec
    from subcircuit.search import Problem
    from subcircuit.search.journal import Journal

Begin: TypeAlias = Callable[["Problem", Callable[[str], None]], Callable[..., Any]]
"""A function of a circuit's problem and of a function that prints a line; returns a search that takes a journal."""


def search_further(spec: "ZoomSpec | RefineSpec", circuit: "Circuit", output: Output, begin: Begin) -> None:
    """Continue the search of a circuit and write the result, with its measurements on the run's prompts."""
    from subcircuit.cli.console import messages
    from subcircuit.cli.output import save_found
    from subcircuit.cli.pool import pool_of
    from subcircuit.cli.problem import Overrides, as_found, split_of, task_named
    from subcircuit.cli.progress import both, in_words, watch
    from subcircuit.cli.summary import print_run
    from subcircuit.evaluate import with_numbers
    from subcircuit.graph import Circuit
    from subcircuit.runs import ProgressFile, identity

    record = circuit.record
    name, model = (record.task.name, record.model.name) if record else ("circuit", "model")
    directory = output.directory(name, model)
    with watch(messages()) as watcher:
        pool = pool_of(spec.workers, spec.ray, watcher.say)
        given = Overrides(model=spec.model, revision=spec.revision, device=spec.device, dtype=spec.dtype, task=spec.task)
        problem = as_found(spec.path, circuit, given, watcher.say)
        transformer = problem.model
        split = split_of(circuit, task_named(spec.path, circuit, given), transformer)
        if split is not None and split.validation is not None:
            problem = replace(problem, validation=split.validation.to(transformer.device))
        search = begin(problem, watcher.say)

        def work(journal: "Journal") -> None:
            shown = ProgressFile(directory, Circuit.empty(circuit.graph), in_words())
            result = pool.run(search, journal, say=watcher.say, on_step=both(watcher.step, shown.step))
            found = result.circuit
            if split is not None:
                found = with_numbers(problem, found, split, journal=journal, on_step=watcher.step)
            save_found(replace(result, circuit=found), directory)
            shown.end()

        digests = {
            **identity(transformer, split or problem.task),
            "circuit": sha256("\n".join(circuit.names).encode()).hexdigest(),
        }
        output.run(directory, spec, digests, work, watcher.say)
    print_run(directory, Circuit.load(directory), as_json=output.json, given={"model": spec.model, "task": spec.task})
