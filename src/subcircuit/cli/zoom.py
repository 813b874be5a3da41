"""``subcircuit zoom``: continue a finished search inside one node of its circuit."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit.cli.arguments import Device, DtypeNow, JsonSummary, ModelNow, RevisionNow

if TYPE_CHECKING:
    from subcircuit.cli.journal import Begun
    from subcircuit.graph import Circuit
    from subcircuit.search import Problem


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
    from functools import partial

    from subcircuit.cli.further import search_further
    from subcircuit.graph import Circuit
    from subcircuit.search import Acdc, look_inside

    component, into = asked["component"], asked["into"]
    circuit = Circuit.load(asked["path"])
    config = Acdc(_threshold(asked, circuit), coarse_to_fine=asked["coarse_to_fine"])

    def begin(problem: "Problem", say: Callable[[str], None]) -> Callable[..., Any]:
        say(f"looking into {component} on the {len(problem.task)} pairs of prompts of the search")
        return partial(look_inside, problem, circuit, component, into, config)

    search_further(asked, circuit, begun, begin)


def _threshold(asked: dict[str, Any], circuit: "Circuit") -> float:
    """The one that is given, or that of the search."""
    from subcircuit.errors import SettingsError

    if asked["threshold"] is not None:
        return asked["threshold"]
    record = circuit.record
    known = None if record is None or record.method.name != "acdc" else record.method.parameters.get("threshold")
    if not isinstance(known, float | int):
        raise SettingsError(f"{asked['path']} was not found with a threshold: give --threshold")
    return float(known)
