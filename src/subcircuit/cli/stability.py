"""``subcircuit stability``: how often the search of a circuit keeps each edge on random halves of its prompts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subcircuit.cli.arguments import CircuitDir, Device, DtypeNow, JsonTable, ModelNow, RevisionNow
from subcircuit.cli.output import Output
from subcircuit.cli.pool import Ray, Workers, pool_of
from subcircuit.runs.spec import DiscoverSpec, StabilitySpec

if TYPE_CHECKING:
    from subcircuit.evaluate import StabilitySelection
    from subcircuit.graph import Circuit
    from subcircuit.search.journal import Journal


def stability(
    path: CircuitDir,
    pairs: Annotated[int, typer.Option(help="Number of pairs of halves; each pair takes two searches.")] = 10,
    consensus: Annotated[float, typer.Option(help="Share of the runs that must keep an edge of the consensus circuit.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Random seed of the halves.")] = 0,
    model: ModelNow = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Task: built-in name or .jsonl file. Default: as recorded.")
    ] = None,
    device: Device = None,
    dtype: DtypeNow = None,
    revision: RevisionNow = None,
    workers: Workers = 1,
    ray: Ray = None,
    out: Annotated[
        Path | None, typer.Option(help="New or empty directory. Default: runs/stability-<task>-<model>-<number>.")
    ] = None,
    json: JsonTable = False,
) -> None:
    """Search again on random halves of the prompts, and find the edges that nearly every half keeps.

    Uses the method, the settings and the search prompts of a run that `discover` wrote. Writes the consensus circuit as `discover`
    does, with stability.csv, stability.svg and stability.png, and a journal with which `subcircuit resume` continues.
    """
    spec = StabilitySpec(
        path=path,
        pairs=pairs,
        consensus=consensus,
        seed=seed,
        model=model,
        task=task,
        device=device,
        dtype=dtype,
        revision=revision,
        workers=workers,
        ray=ray,
    )
    stability_run(spec, Output(out, json))


def stability_run(spec: StabilitySpec, output: Output) -> None:
    """Search on halves as a spec says, or resume such a run."""
    from dataclasses import replace
    from functools import partial
    from hashlib import sha256

    from subcircuit.cli.console import messages, plain, print_json, print_rows, results
    from subcircuit.cli.further import prepared
    from subcircuit.cli.progress import watch
    from subcircuit.evaluate import stability_selection, with_numbers
    from subcircuit.graph import Circuit
    from subcircuit.report import save_stability
    from subcircuit.runs.search import run_from

    circuit = Circuit.load(spec.path)
    search = _search_of(spec, circuit)
    assert circuit.record is not None
    directory = output.directory(f"stability-{circuit.record.task.name}", circuit.record.model.name)
    with watch(messages()) as watcher:
        pool = pool_of(spec.workers, spec.ray, watcher.say)
        problem, split, digests = prepared(spec, circuit, watcher.say)
        # the circuit may be found by another method, and be the same
        digests["method"] = sha256(circuit.record.method.model_dump_json().encode()).hexdigest()
        how = {"pairs": spec.pairs, "consensus": spec.consensus, "seed": spec.seed}
        selecting = partial(stability_selection, problem, search.configured(), selection=search.selection(problem.graph), **how)
        watcher.say(f"searching {2 * spec.pairs} times on halves of {len(problem.task)} pairs of prompts by {search.method}")

        def work(journal: "Journal") -> "tuple[StabilitySelection, Circuit]":
            made = pool.run(selecting, journal, say=watcher.say, on_step=watcher.step)
            found = replace(made.circuit, record=made.record(circuit, how))
            if split is not None:
                found = with_numbers(problem, found, split, journal=journal, on_step=watcher.step)
            save_stability(made, found, directory)
            return made, found

        made, found = run_from(spec, directory, digests, work, output.source, watcher.say)
    if output.json:
        print_json({**made.numbers(circuit), "out": str(directory)})
        return
    print_rows(_rows(made, circuit, found), results())
    results().print()
    for name in ("circuit.svg", "stability.svg"):
        results().print(plain(f"picture   {directory / name}"), soft_wrap=True)


def _search_of(spec: StabilitySpec, circuit: "Circuit") -> DiscoverSpec:
    """The search that found a circuit.

    Raises:
        SettingsError: the circuit has no record, or its search started from another circuit.
    """
    from subcircuit.errors import SettingsError, UnknownNameError

    search = DiscoverSpec.of_circuit(circuit)
    try:
        search.configured()
    except (SettingsError, UnknownNameError) as error:
        raise SettingsError(
            f"{spec.path} was not found by one search alone ({error}): give a directory that `subcircuit discover` wrote"
        ) from None
    return search


def _rows(made: "StabilitySelection", before: "Circuit", found: "Circuit") -> list[tuple[str, str]]:
    from subcircuit.report import Summary

    numbers = made.numbers(before)
    rows = [
        ("consensus circuit", f"{found.n_edges:,} edges, kept by at least {made.consensus:.0%} of {len(made.circuits)} runs"),
        ("a run keeps", f"{made.mean_edges:,.1f} edges on average"),
        ("agreement", f"Jaccard index {made.agreement.mean_jaccard:.2f} of two runs"),
        ("by chance", f"at most {made.by_chance:.2g} of the consensus edges, if noise kept all edges equally often"),
        ("the given circuit", f"{numbers['shared']:,} of its {before.n_edges:,} edges are in the consensus circuit"),
    ]
    test = Summary.of(found).test
    if test is not None and test.faithfulness is not None:
        rows.append((f"on {test.examples} unseen prompts", f"faithfulness {test.faithfulness:.2f} of the consensus circuit"))
    if not found.n_edges:
        rows.append(
            (
                "warning",
                "the consensus circuit is empty: no edge is kept by enough runs. Use more prompts, or a lower --consensus",
            )
        )
    return rows
