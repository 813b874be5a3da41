"""``subcircuit refine``: grow and prune a finished circuit until it is faithful on prompts it has not seen."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit.cli.arguments import Device, DtypeNow, JsonSummary, ModelNow, RevisionNow
from subcircuit.cli.crew import Ray, Workers
from subcircuit.cli.discover import Settings, Target

if TYPE_CHECKING:
    from subcircuit.cli.kept import Begun
    from subcircuit.search import Behaviour
    from subcircuit.search.journal import Journal
    from subcircuit.tasks import Split


def refine(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of a finished circuit, by any method.")],
    target: Target = None,
    settings: Settings = None,
    model: ModelNow = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Where the prompts are now. Default: as recorded.")] = None,
    device: Device = None,
    dtype: DtypeNow = None,
    revision: RevisionNow = None,
    workers: Workers = 1,
    ray: Ray = None,
    out: Annotated[Path | None, typer.Option(help="New or empty directory. Default: runs/<task>-<model>-<number>.")] = None,
    json: JsonSummary = False,
) -> None:
    """Grow and prune a circuit until it is faithful on prompts it has not seen.

    Works on the search prompts of the run and judges by its validation prompts. Writes a directory as `discover` does, with
    the circuit after every round: path.json, path.csv and path.svg. `subcircuit show DIR --edges 150` takes another size from it.
    """
    refine_for({"command": "refine", **locals()})


def refine_for(asked: dict[str, Any], begun: "Begun | None" = None) -> None:
    """Begin with these options of ``refine``, or go on."""
    from functools import partial

    from subcircuit.cli.asked import targets
    from subcircuit.cli.console import messages
    from subcircuit.cli.crew import crew_of
    from subcircuit.cli.kept import directory_for, keep
    from subcircuit.cli.options import configured
    from subcircuit.cli.progress import both, in_words, watch
    from subcircuit.cli.recorded import Overrides, as_found, split_of
    from subcircuit.cli.summary import print_run
    from subcircuit.evaluate import with_numbers
    from subcircuit.graph import Circuit
    from subcircuit.report import save_picture, write_path
    from subcircuit.runs import Beacon, identity
    from subcircuit.search import refine_circuit
    from subcircuit.workers import together

    o = SimpleNamespace(**asked)
    config = configured("refine", targets(o.target), o.settings or ())
    circuit = Circuit.load(o.path)
    name, model = (circuit.record.task.name, circuit.record.model.name) if circuit.record else ("circuit", "model")
    directory = directory_for(begun, o.out, name, model)
    with watch(messages()) as watcher:
        crew = crew_of(o.workers, o.ray, watcher.say)
        given = Overrides(model=o.model, revision=o.revision, device=o.device, dtype=o.dtype, task=o.task)
        transformer, behaviour = as_found(o.path, circuit, given, watcher.say)
        split = split_of(circuit, o.task or name, transformer)
        behaviour = _with_validation(behaviour, split)
        if behaviour.validation is None:
            watcher.say(
                "warning: this run set no validation prompts apart: the prompts of the search judge, and may be fitted to"
            )
        watcher.say(f"refining {circuit.n_edges:,} edges on the {len(behaviour.task)} pairs of prompts of the search")

        def work(journal: "Journal") -> None:
            beacon = Beacon(directory, Circuit.empty(circuit.graph), in_words())
            refining = partial(refine_circuit, circuit=circuit, behaviour=behaviour, config=config)
            result = together(refining, transformer, crew, journal, say=watcher.say, on_step=both(watcher.step, beacon.step))
            found = result.circuit
            if split is not None:
                found = with_numbers(transformer, found, behaviour, split, journal=journal)
            found.save(directory)
            save_picture(found, directory)
            assert result.path is not None
            write_path(result.path, found, directory)
            beacon.end()

        digests = {
            **identity(transformer, split or behaviour.task),
            "circuit": sha256("\n".join(circuit.names).encode()).hexdigest(),
        }
        keep(asked, digests, (directory, begun), work, watcher.say)
    print_run(directory, Circuit.load(directory), as_json=o.json, given={"model": o.model, "task": o.task})


def _with_validation(behaviour: "Behaviour", split: "Split | None") -> "Behaviour":
    """With the validation prompts that the run set apart."""
    if split is None or split.validation is None:
        return behaviour
    return replace(behaviour, validation=split.validation.to(behaviour.task.clean.ids.device))
