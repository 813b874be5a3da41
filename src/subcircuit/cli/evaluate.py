"""``subcircuit evaluate``: faithfulness and completeness of a circuit on prompts outside its search."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit.cli.arguments import CircuitDir, Device, DtypeNow, JsonTable, ModelNow, RevisionNow
from subcircuit.cli.pool import Ray, Workers, pool_of

if TYPE_CHECKING:
    from subcircuit.evaluate import Interval, Judgement
    from subcircuit.graph import Circuit
    from subcircuit.search import Problem

EXAMPLES = 64


def evaluate(
    path: CircuitDir,
    model: ModelNow = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Task: built-in name or .jsonl file. Default: as recorded.")
    ] = None,
    examples: Annotated[
        int | None, typer.Option(help="Number of pairs of prompts. Default: all test prompts of the run.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Random seed for new prompts. Default: the run's test prompts, which the search did not use."),
    ] = None,
    metric: DtypeNow = None,
    ablation: Annotated[str | None, typer.Option(help="Values of cut edges. Default: as recorded.")] = None,
    random_circuits: Annotated[int, typer.Option(help="Number of random circuits of the same size for comparison.")] = 10,
    by: Annotated[str, typer.Option(help="Ranking of scores for CPR and CMD: signed or absolute.")] = "signed",
    batch_size: Annotated[int, typer.Option(help="Number of prompts per batch; it does not change the result.")] = 16,
    device: Device = None,
    dtype: DtypeNow = None,
    revision: RevisionNow = None,
    workers: Workers = 1,
    ray: Ray = None,
    json: JsonTable = False,
) -> None:
    """Measure the faithfulness and completeness of a circuit, and of random circuits of its size."""
    from subcircuit.cli.console import messages, print_json
    from subcircuit.cli.problem import Overrides, ready
    from subcircuit.cli.progress import watch
    from subcircuit.evaluate import judge
    from subcircuit.graph import ranking_named

    order = ranking_named(by)
    given = Overrides(model, revision, device, dtype, task, examples, seed, metric, ablation)
    with watch(messages()) as watcher:
        pool = pool_of(workers, ray, watcher.say)
        circuit, problem, shared = ready(path, given, EXAMPLES, watcher.say)
        watcher.say(f"measuring {circuit.n_edges:,} edges on {len(problem.task)} pairs of prompts")
        judging = partial(judge, problem, circuit, random_circuits=random_circuits, by=order, batch_size=batch_size)
        judged = pool.run(judging, say=watcher.say, on_step=watcher.step)
    if json:
        print_json(_as_json(path, circuit, problem, judged, shared))
    else:
        _print(circuit, problem, judged, shared)


def _print(circuit: "Circuit", problem: "Problem", judged: "Judgement", shared: int) -> None:
    from subcircuit.cli.console import plain, print_rows, results

    evaluation, curve = judged.evaluation, judged.curve
    means = {name: float("nan") if mean is None else mean for name, mean in evaluation.means.items()}
    ends = f"(model {means['metric_model']:.4g}, every edge cut {means['metric_empty']:.4g})"
    faithful = f"{evaluation.faithfulness:z.3f}{_range(evaluation.faithfulness_interval())}"
    random = f"{judged.random_mean:z.3f}{_range(judged.random_interval)}"
    rows = [
        ("edges", f"{circuit.n_edges:,} of {circuit.graph.n_edges:,}", ""),
        ("prompts", f"{len(problem.task)} pairs of {problem.task.name}", f"{shared or 'none'} of them used in the search"),
        ("metric", f"{problem.metric.name} {means['metric_circuit']:.4g}", ends),
        ("faithfulness", faithful, "1: the model; 0: every edge cut"),
        ("random circuits", random, f"faithfulness of {len(judged.random)} circuits of the same size"),
        (
            "completeness",
            f"{judged.completeness:z.3f}",
            "faithfulness of all other edges: 0 if the circuit is complete, 1 if it is empty",
        ),
        ("KL(model ‖ circuit)", f"{means['kl']:.4g} nats", ""),
        ("same first token", f"{means['match']:.1%}", "of answers"),
    ]
    if evaluation.accuracy is not None:
        rows.append(("accuracy", f"{means['accuracy']:.1%}", f"(model {means['accuracy_model']:.1%})"))
    if curve is not None:
        rows.append(("CPR", f"{curve.cpr:z.3f}", f"area under faithfulness over the share of edges, by {curve.by} score"))
        rows.append(("CMD", f"{curve.cmd:z.3f}", "area between faithfulness and 1"))
    console = results()
    print_rows(rows, console)
    for warning in judged.warnings:
        console.print(plain(f"warning: {warning}", "bold red"))


def _range(interval: "Interval | None") -> str:
    return "" if interval is None else f" [{interval.low:z.3f}, {interval.high:z.3f}]"


def _as_json(path: Path, circuit: "Circuit", problem: "Problem", judged: "Judgement", shared: int) -> dict[str, Any]:

    interval, random, curve = judged.evaluation.faithfulness_interval(), judged.random_interval, judged.curve
    return {
        "circuit": str(path),
        "edges": circuit.n_edges,
        "edges_total": circuit.graph.n_edges,
        "task": problem.task.name,
        "examples": len(problem.task),
        "shared_with_search": shared,
        "metric": problem.metric.name,
        "ablation": problem.ablation.name,
        "faithfulness": judged.evaluation.faithfulness,
        "faithfulness_interval": None if interval is None else [interval.low, interval.high],
        **judged.evaluation.means,
        "completeness": judged.completeness,
        "warnings": list(judged.warnings),
        "random_faithfulness": judged.random_mean,
        "random_faithfulness_interval": [random.low, random.high],
        "random_circuits": len(judged.random),
        "cpr": None if curve is None else curve.cpr,
        "cmd": None if curve is None else curve.cmd,
        "ranked_by": None if curve is None else curve.by,
    }
