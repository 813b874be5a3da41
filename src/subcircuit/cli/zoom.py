"""``subcircuit zoom``: continue a finished search inside one node of its circuit."""

from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit.cli.arguments import Device, DtypeNow, JsonSummary, ModelNow, RevisionNow

if TYPE_CHECKING:
    from subcircuit.cli.kept import Begun
    from subcircuit.search.journal import Journal


def zoom(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="A directory that `subcircuit discover` or `zoom` wrote.")],
    component: Annotated[str, typer.Argument(metavar="NODE", help="A block, head or MLP of the circuit: a9, a9.h3, m5.")],
    into: Annotated[
        str, typer.Option(help="How to resolve it: head or qkv (blocks), qkv (heads), neuron or expert (MLPs); positions (any).")
    ],
    threshold: Annotated[
        float | None, typer.Option(help="An edge whose cut changes the metric by less is cut. Default: that of the search.")
    ] = None,
    coarse_to_fine: Annotated[
        bool, typer.Option("--coarse-to-fine", help="Cut groups of parts first, and look only into those that stay.")
    ] = False,
    model: ModelNow = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Where the prompts are now. Default: as recorded.")] = None,
    device: Device = None,
    dtype: DtypeNow = None,
    revision: RevisionNow = None,
    out: Annotated[Path | None, typer.Option(help="New or empty directory. Default: runs/<task>-<model>-<number>.")] = None,
    json: JsonSummary = False,
) -> None:
    """Look inside one node: search its parts' edges, all other edges staying as they are.

    Works on the prompts of the search with the edges of any method's circuit. Writes a directory as `discover` does.
    """
    zoom_for({"command": "zoom", **locals()})


def zoom_for(asked: dict[str, Any], begun: "Begun | None" = None) -> None:
    """Begin with these options of ``zoom``, or go on."""
    from subcircuit.cli.console import messages
    from subcircuit.cli.kept import directory_for, keep
    from subcircuit.cli.progress import both, in_words, watch
    from subcircuit.cli.recorded import Overrides, as_found, split_of, task_named
    from subcircuit.cli.summary import print_run
    from subcircuit.errors import SettingsError
    from subcircuit.evaluate import with_numbers
    from subcircuit.graph import Circuit
    from subcircuit.report import save_picture
    from subcircuit.runs import Beacon, identity
    from subcircuit.search import Acdc, look_inside

    o = SimpleNamespace(**asked)
    circuit = Circuit.load(o.path)
    record, threshold = circuit.record, o.threshold
    if threshold is None:
        known = None if record is None or record.method.name != "acdc" else record.method.parameters.get("threshold")
        if not isinstance(known, float | int):
            raise SettingsError(f"{o.path} was not found with a threshold: give --threshold")
        threshold = float(known)
    name, model = (record.task.name, record.model.name) if record else ("circuit", "model")
    directory = directory_for(begun, o.out, name, model)
    with watch(messages()) as watcher:
        given = Overrides(model=o.model, revision=o.revision, device=o.device, dtype=o.dtype, task=o.task)
        transformer, behaviour = as_found(o.path, circuit, given, watcher.say)
        split = split_of(circuit, task_named(o.path, circuit, given), transformer)
        watcher.say(f"looking into {o.component} on the {len(behaviour.task)} pairs of prompts of the search")

        def work(journal: "Journal") -> None:
            beacon = Beacon(directory, Circuit.empty(circuit.graph), in_words())
            told = both(watcher.step, beacon.step)
            config = Acdc(threshold, coarse_to_fine=o.coarse_to_fine)
            result = look_inside(transformer, circuit, o.component, o.into, behaviour, config, told, journal)
            inside = result.circuit
            if split is not None:
                inside = with_numbers(transformer, inside, behaviour, split, journal=journal, on_step=watcher.step)
            inside.save(directory)
            save_picture(inside, directory)
            beacon.end()

        found = {
            **identity(transformer, split or behaviour.task),
            "circuit": sha256("\n".join(circuit.names).encode()).hexdigest(),
        }
        keep(asked, found, (directory, begun), work, watcher.say)
    print_run(directory, Circuit.load(directory), as_json=o.json, given={"model": o.model, "task": o.task})
