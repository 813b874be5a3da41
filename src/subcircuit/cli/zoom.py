"""``subcircuit zoom``: continue a finished search inside one node of its circuit."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit.cli.arguments import Device, DtypeNow, JsonSummary, ModelNow, RevisionNow
from subcircuit.cli.output import Output
from subcircuit.cli.pool import Ray, Workers
from subcircuit.runs.spec import ZoomSpec

if TYPE_CHECKING:
    from subcircuit.graph import Circuit
    from subcircuit.search import Problem


def zoom(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Circuit: a directory that `subcircuit discover` or `zoom` wrote.")],
    component: Annotated[
        str, typer.Argument(metavar="NODE", help="Node of the circuit: a block, head or MLP, such as a9, a9.h3 or m5.")
    ],
    into: Annotated[
        str,
        typer.Option(help="Finer level: head or qkv (blocks), qkv (heads), neuron or expert (MLPs), or positions (any node)."),
    ],
    threshold: Annotated[
        float | None, typer.Option(help="Largest loss of the metric for which an edge is cut. Default: that of the search.")
    ] = None,
    coarse_to_fine: Annotated[
        bool, typer.Option("--coarse-to-fine", help="Cut groups of parts first, and search only inside the kept ones.")
    ] = False,
    model: ModelNow = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Task: built-in name or .jsonl file. Default: as recorded.")
    ] = None,
    device: Device = None,
    dtype: DtypeNow = None,
    revision: RevisionNow = None,
    workers: Workers = 1,
    ray: Ray = None,
    out: Annotated[Path | None, typer.Option(help="New or empty directory. Default: runs/<task>-<model>-<number>.")] = None,
    json: JsonSummary = False,
) -> None:
    """Search inside one node of a circuit: decide the edges of its parts and keep all other edges.

    Uses the search prompts of the run. Accepts circuits of any method. Writes a directory as `discover` does.
    """
    look_inside_node(
        ZoomSpec(
            path=path,
            component=component,
            into=into,
            threshold=threshold,
            coarse_to_fine=coarse_to_fine,
            model=model,
            task=task,
            device=device,
            dtype=dtype,
            revision=revision,
            workers=workers,
            ray=ray,
        ),
        Output(out, json),
    )


def look_inside_node(spec: ZoomSpec, output: Output) -> None:
    """Search inside a node as a spec says, or resume such a search."""
    from functools import partial

    from subcircuit.cli.further import search_further
    from subcircuit.graph import Circuit
    from subcircuit.search import Acdc, look_inside

    circuit = Circuit.load(spec.path)
    config = Acdc(_threshold(spec, circuit), coarse_to_fine=spec.coarse_to_fine)

    def begin(problem: "Problem", say: Callable[[str], None]) -> Callable[..., Any]:
        say(f"searching inside {spec.component} on the {len(problem.task)} search pairs")
        return partial(look_inside, problem, circuit, spec.component, spec.into, config)

    search_further(spec, circuit, output, begin)


def _threshold(spec: ZoomSpec, circuit: "Circuit") -> float:
    """The threshold that is given, or that of the circuit's search."""
    from subcircuit.errors import SettingsError

    if spec.threshold is not None:
        return spec.threshold
    record = circuit.record
    known = None if record is None or record.method.name != "acdc" else record.method.parameters.get("threshold")
    if not isinstance(known, float | int):
        raise SettingsError(f"the method of {spec.path} has no threshold: give --threshold")
    return float(known)
