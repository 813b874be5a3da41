"""``subcircuit refine``: grow and prune a finished circuit until it is faithful on prompts it has not seen."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit.cli.arguments import Device, DtypeNow, JsonSummary, ModelNow, RevisionNow
from subcircuit.cli.discover import Settings, Target
from subcircuit.cli.pool import Ray, Workers

if TYPE_CHECKING:
    from subcircuit.cli.journal import Begun
    from subcircuit.search import Problem


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

    from subcircuit.cli.further import search_further
    from subcircuit.cli.options import configured
    from subcircuit.cli.request import targets
    from subcircuit.graph import Circuit
    from subcircuit.search import refine_circuit

    config = configured("refine", targets(asked["target"]), asked["settings"] or ())
    circuit = Circuit.load(asked["path"])

    def begin(problem: "Problem", say: Callable[[str], None]) -> Callable[..., Any]:
        if problem.validation is None:
            say("warning: this run set no validation prompts apart: the prompts of the search judge, and may be fitted to")
        say(f"refining {circuit.n_edges:,} edges on the {len(problem.task)} pairs of prompts of the search")
        return partial(refine_circuit, problem, circuit, config)

    search_further(asked, circuit, begun, begin)
