"""What `zoom` and `refine` share: a finished circuit searched further, on the prompts that it was found with."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from subcircuit.cli.journal import Begun
    from subcircuit.graph import Circuit
    from subcircuit.search import Problem
    from subcircuit.search.journal import Journal

Begin: TypeAlias = Callable[["Problem", Callable[[str], None]], Callable[..., Any]]
"""From the behaviour of a circuit, and whom to tell of it, to a search that keeps to a journal."""


def search_further(asked: dict[str, Any], circuit: "Circuit", begun: "Begun | None", begin: Begin) -> None:
    """Search a circuit further and write what is found, with its numbers on the run's own prompts.

    Args:
        asked: the command's options; ``path`` is where the circuit is.
        begun: a run to go on with; None begins one.
    """
    from subcircuit.cli.console import messages
    from subcircuit.cli.journal import directory_for, keep, save_found
    from subcircuit.cli.pool import pool_of
    from subcircuit.cli.problem import Overrides, as_found, split_of, task_named
    from subcircuit.cli.progress import both, in_words, watch
    from subcircuit.cli.summary import print_run
    from subcircuit.evaluate import with_numbers
    from subcircuit.graph import Circuit
    from subcircuit.runs import ProgressFile, identity

    o, record = SimpleNamespace(**asked), circuit.record
    name, model = (record.task.name, record.model.name) if record else ("circuit", "model")
    directory = directory_for(begun, o.out, name, model)
    with watch(messages()) as watcher:
        pool = pool_of(asked.get("workers", 1), asked.get("ray"), watcher.say)
        given = Overrides(model=o.model, revision=o.revision, device=o.device, dtype=o.dtype, task=o.task)
        problem = as_found(o.path, circuit, given, watcher.say)
        transformer = problem.model
        split = split_of(circuit, task_named(o.path, circuit, given), transformer)
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
        keep(asked, digests, (directory, begun), work, watcher.say)
    print_run(directory, Circuit.load(directory), as_json=o.json, given={"model": o.model, "task": o.task})
