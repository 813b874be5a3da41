"""``subcircuit refine``: grow and prune a finished circuit until it is faithful on unseen prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit.cli.arguments import Device, DtypeNow, JsonSummary, ModelNow, RevisionNow
from subcircuit.cli.discover import Settings, Target
from subcircuit.cli.output import Output
from subcircuit.cli.pool import Ray, Workers
from subcircuit.runs.option_texts import parse_settings, parse_targets
from subcircuit.runs.spec import RefineSpec

if TYPE_CHECKING:
    from subcircuit.search import Problem


def refine(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Circuit to refine: directory of a finished search by any method.")],
    target: Target = None,
    settings: Settings = None,
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
    """Grow and prune a circuit until it is faithful on unseen prompts.

    Uses the search prompts of the run; its validation prompts decide when to stop. Writes a directory as `discover` does, with
    the circuit after every round: path.json, path.csv and path.svg. `subcircuit show DIR --edges 150` shows another size.
    """
    refine_run(
        RefineSpec(
            path=path,
            target=parse_targets(target or ()),
            settings=parse_settings(settings or ()),
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


def refine_run(spec: RefineSpec, output: Output) -> None:
    """Refine a circuit as a spec says, or resume such a refinement."""
    from functools import partial

    from subcircuit.cli.further import search_further
    from subcircuit.graph import Circuit
    from subcircuit.search import refine_circuit

    config = spec.configured()
    circuit = Circuit.load(spec.path)

    def begin(problem: "Problem", say: Callable[[str], None]) -> Callable[..., Any]:
        if problem.validation is None:
            say(
                "warning: this run has no validation prompts, so targets are checked on the search prompts, which the circuit may fit"
            )
        say(f"refining {circuit.n_edges:,} edges on the {len(problem.task)} search pairs")
        return partial(refine_circuit, problem, circuit, config)

    search_further(spec, circuit, output, begin)
