"""``subcircuit experts``: the routing of a task's positions to experts, and its effect on the behaviour."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit.cli.arguments import Bos, Device, Dtype, Metric, Revision, TaskName

if TYPE_CHECKING:
    from torch import Tensor

    from subcircuit.evaluate import LayerRouting, RoutingEffects, RoutingReport
    from subcircuit.search import Problem

_CUTS = ("routing cut", "share", "contents cut", "share")
SHOWN = 4  # experts of a role, those that most positions go to


def experts(
    model: Annotated[str, typer.Option("--model", "-m", help="Model with mixtures of experts: Hugging Face id or directory.")],
    task: TaskName,
    examples: Annotated[int | None, typer.Option(help="Number of pairs of prompts. Default: 8, or all of a file.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed for prompts.")] = 0,
    metric: Metric = None,
    detail: Annotated[int, typer.Option(help="Number of layers, largest effect first, whose roles and sources are shown.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Number of prompts per batch; it does not change the result.")] = 16,
    bos: Bos = "auto",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with all layers, instead of the tables.")] = False,
) -> None:
    """Measure whether routing to experts carries a behaviour: routes, and effects of cutting router inputs."""
    from subcircuit.cli.console import messages, print_json
    from subcircuit.cli.progress import watch
    from subcircuit.evaluate import routing
    from subcircuit.model import load_model
    from subcircuit.search import Problem
    from subcircuit.tasks import bos_policy, check_task, load_task
    from subcircuit.tasks import metric as metric_named

    policy = bos_policy(bos)
    check_task(task)
    if metric is not None:
        metric_named(metric)
    with watch(messages()) as watcher:
        watcher.say(f"loading {model}")
        transformer = load_model(model, revision=revision, device=device, dtype=dtype, report=watcher.say)
        prompts = load_task(task, transformer, examples=examples, seed=seed, bos=policy)
        problem = Problem.of(transformer, prompts, metric)
        watcher.say(f"measuring the cuts of edges into routers and experts on {len(prompts)} pairs of prompts")
        found = routing(problem, detail, batch_size, watcher.step)
    if json:
        print_json(_as_json(problem, found))
    else:
        _print(problem, found, detail)


def _print(problem: "Problem", found: "RoutingReport", detail: int) -> None:
    from subcircuit.cli.console import plain, print_table, results

    console = results()
    whole = f"with every edge cut {problem.metric.name} is worse by {found.whole:.4g} (100%)"
    console.print(plain(f"{problem.task.name}, {len(problem.task)} pairs: {whole}"))
    console.print()
    lines = [("all", found.total), *((f"m{layer.layer}", layer.effects) for layer in found.layers)]
    cells = [(name, *_effects(found, effects)) for name, effects in lines]
    print_table(("layer", *_CUTS), cells, console)
    for layer in found.most_effective(detail):
        console.print()
        console.print(plain(f"m{layer.layer}: where the effects come from", "bold"))
        print_table(("from", *_CUTS), [(s.source, *_effects(found, s)) for s in layer.sources], console)
        console.print()
        console.print(plain(f"m{layer.layer}: where positions go", "bold"))
        rows = [(r.role, str(r.positions), _top(r.clean), _top(r.corrupted), f"{r.moved:.0%}") for r in layer.roles]
        print_table(("role", "positions", "clean", "corrupted", "moved"), rows, console)
    console.print()
    console.print(plain("routing cut: experts are chosen as on the corrupted prompt, and read clean inputs", "dim"))
    console.print(plain("contents cut: experts are chosen as on the clean prompt, and read corrupted inputs", "dim"))


def _effects(found: "RoutingReport", effects: "RoutingEffects") -> tuple[str, str, str, str]:
    routed, read = (_share(found.share(effect)) for effect in (effects.routing, effects.contents))
    return f"{effects.routing:+.4g}", routed, f"{effects.contents:+.4g}", read


def _share(share: float) -> str:
    return "" if share != share else f"{share + 0.0:.0%}"


def _top(shares: "Tensor") -> str:
    """The experts that receive most positions."""
    best = shares.sort(descending=True, stable=True)
    named = [f"e{e} {s:.0%}" for e, s in zip(best.indices.tolist(), best.values.tolist(), strict=True) if s > 0]
    return ", ".join(named[:SHOWN]) + (", …" if len(named) > SHOWN else "")


def _as_json(problem: "Problem", found: "RoutingReport") -> dict[str, Any]:
    return {
        "model": problem.model.name,
        "task": problem.task.name,
        "examples": len(problem.task),
        "metric": problem.metric.name,
        "effect_of_all_edges": found.whole,
        "rounding": found.rounding,
        "routing": found.total.routing,
        "contents": found.total.contents,
        "layers": [_layer_as_json(layer) for layer in found.layers],
    }


def _layer_as_json(layer: "LayerRouting") -> dict[str, Any]:
    return {
        "layer": layer.layer,
        "routing": layer.effects.routing,
        "contents": layer.effects.contents,
        "sources": {s.source: {"routing": s.routing, "contents": s.contents} for s in layer.sources},
        "roles": {
            r.role: {
                "positions": r.positions,
                "clean": r.clean.tolist(),
                "corrupted": r.corrupted.tolist(),
                "moved": r.moved,
            }
            for r in layer.roles
        },
    }
