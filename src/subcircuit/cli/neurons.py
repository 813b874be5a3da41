"""``subcircuit neurons``: the MLP neurons of a model that a behaviour needs."""

from typing import Annotated

import typer

from subcircuit.cli.arguments import Device, Dtype, JsonTables, ModelName, Revision, TaskName

SIZES = (0, 100, 1_000, 10_000)


def neurons(
    model: ModelName,
    task: TaskName,
    examples: Annotated[int | None, typer.Option(help="Number of pairs of prompts. Default: 8, or all of a file.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed for prompts.")] = 0,
    metric: Annotated[str, typer.Option(help="Metric to attribute; it needs a gradient at the clean run.")] = "logit_difference",
    ablation: Annotated[str, typer.Option(help="Values of ablated neurons: resample or zero.")] = "resample",
    top: Annotated[int, typer.Option(help="Number of neurons to show.")] = 20,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    json: JsonTables = False,
) -> None:
    """Rank all MLP neurons by attribution, and measure the model with only the best neurons."""
    from subcircuit.cli.console import messages, print_json, print_rows, results
    from subcircuit.cli.progress import watch
    from subcircuit.engine import ablation_named
    from subcircuit.errors import SettingsError
    from subcircuit.model import load_model
    from subcircuit.search import Eap, Problem, ProgressCounter, loss_with_neurons, neuron_scores
    from subcircuit.tasks import check_task, load_task
    from subcircuit.tasks import metric as metric_named

    if top < 1:
        raise SettingsError(f"--top is {top}: it must be at least 1")
    check_task(task)
    measured, carried = metric_named(metric), ablation_named(ablation)
    with watch(messages()) as watcher:
        transformer = load_model(model, revision=revision, device=device, dtype=dtype, report=watcher.say)
        prompts = load_task(task, transformer, examples=examples, seed=seed)
        problem = Problem.of(transformer, prompts, measured, carried)
        scores = neuron_scores(problem, Eap(), watcher.step)
        total = scores.values.numel()
        sizes = [size for size in SIZES if size < total] + [total]
        measured_runs = ProgressCounter(len(sizes) * len(prompts), watcher.step, phase="measure")
        left = {size: loss_with_neurons(problem, scores.keep(size), measured_runs.done) for size in sizes}
    best = scores.largest(top)
    if json:
        ranked = [{"neuron": str(neuron), "score": score} for neuron, score in best]
        cost = {"seconds": scores.seconds, "forward_equivalents": scores.forward_equivalents}
        print_json({"neurons": total, "top": ranked, metric: {str(size): value for size, value in left.items()}, **cost})
        return
    console = results()
    print_rows([(str(neuron), f"{score:+.4g}") for neuron, score in best], console)
    console.print()
    print_rows([(f"{size:,} neurons kept", f"{metric} {value:.4g}") for size, value in left.items()], console)
    print_rows([("cost", f"{scores.seconds:.1f} s = {scores.forward_equivalents:.0f} plain forward passes")], console)
