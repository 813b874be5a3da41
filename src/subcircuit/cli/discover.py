"""``subcircuit discover``: find a circuit and write it to a directory."""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit.errors import SettingsError, UnknownNameError

if TYPE_CHECKING:
    from subcircuit.tasks import BosPolicy

_METHOD = "Options of the method; without them, its defaults"


def discover(
    model: Annotated[str, typer.Option("--model", "-m", help="Built-in name, Hugging Face id, directory or .gguf file.")],
    task: Annotated[str, typer.Option("--task", "-t", help="Built-in name, or a .jsonl file of prompts.")],
    examples: Annotated[int | None, typer.Option(help="How many pairs of prompts. Default: 8, or all of a file.")] = None,
    seed: Annotated[int, typer.Option(help="Of the prompts.")] = 0,
    method: Annotated[str, typer.Option(help="How to search; see `subcircuit methods`.")] = "acdc",
    metric: Annotated[
        str | None, typer.Option(help="What must stay as it is; see `subcircuit metrics`. Default: the task's own.")
    ] = None,
    ablation: Annotated[str, typer.Option(help="What cut edges carry: resample, zero, mean, mean-by-position.")] = "resample",
    scope: Annotated[str, typer.Option(help="What counts as a node: block, head, qkv.")] = "qkv",
    kv: Annotated[
        str, typer.Option(help="Key and value inputs where heads share them: per_query_head, grouped.")
    ] = "per_query_head",
    split_embeddings: Annotated[
        bool, typer.Option("--split-embeddings", help="Token and position embeddings as two nodes.")
    ] = False,
    bos: Annotated[str, typer.Option(help="Beginning-of-sequence token: auto (as the tokenizer does), always, never.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, … Default: cuda where there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float64, bfloat16, float16, auto. Default: float32.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the hub.")] = None,
    out: Annotated[Path | None, typer.Option(help="New or empty directory. Default: runs/<task>-<model>-<number>.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")] = False,
    threshold: Annotated[
        float | None, typer.Option(help="An edge whose cut changes the metric by less is cut.", rich_help_panel=_METHOD)
    ] = None,
    whole_input: Annotated[
        bool | None,
        typer.Option(
            "--whole-input/--no-whole-input", help="Try all edges into a reader at once first.", rich_help_panel=_METHOD
        ),
    ] = None,
    absolute: Annotated[
        bool | None, typer.Option("--absolute/--no-absolute", help="Improvements count as changes too.", rich_help_panel=_METHOD)
    ] = None,
    head_order: Annotated[str | None, typer.Option(help="descending, ascending.", rich_help_panel=_METHOD)] = None,
    speculation: Annotated[
        int | None, typer.Option(help="Trials evaluated ahead; the result does not depend on it.", rich_help_panel=_METHOD)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Pairs of a circuit and a prompt evaluated at once; the result does not depend on it.", rich_help_panel=_METHOD
        ),
    ] = None,
) -> None:
    """Find the circuit with which a model carries out a task.

    Writes circuit.json, scores.safetensors, circuit.svg and circuit.png. Nothing that exists is overwritten.
    """
    from subcircuit.cli.console import messages
    from subcircuit.cli.progress import watch
    from subcircuit.cli.summary import print_run
    from subcircuit.graph import Scope
    from subcircuit.model import load_model
    from subcircuit.report import new_directory, write_run
    from subcircuit.run.ablation import ablation_named
    from subcircuit.search import discover as search
    from subcircuit.tasks import load_task
    from subcircuit.tasks import metric as metric_named

    # what can be refused is refused before anything large is loaded
    given = {"threshold": threshold, "whole_input": whole_input, "absolute": absolute, "head_order": head_order}
    config = configured(method, given | {"speculation": speculation, "batch_size": batch_size})
    resolved = Scope.named(scope, kv, split_embeddings)
    policy = bos_policy(bos)
    ablation_named(ablation)
    if metric is not None:
        metric_named(metric)
    directory = new_directory(out, task, model)
    with watch(messages()) as watcher:
        watcher.say(f"loading {model}")
        transformer = load_model(model, revision=revision, device=device, dtype=dtype, report=watcher.say)
        behaviour = load_task(task, transformer, examples=examples, seed=seed, bos=policy)
        watcher.say(f"searching for the circuit of {behaviour.name}, {len(behaviour.pairs)} pairs of prompts")
        result = search(transformer, behaviour, config, metric=metric, ablation=ablation, scope=resolved, on_step=watcher.step)
    print_run(write_run(result.circuit, directory), result.circuit, as_json=json)


def bos_policy(name: str) -> "BosPolicy":
    """The policy of this name.

    Raises:
        UnknownNameError: there is none.
    """
    policies: "dict[str, BosPolicy]" = {"auto": "auto", "always": "always", "never": "never"}
    if name not in policies:
        raise UnknownNameError("bos", name, tuple(policies))
    return policies[name]


def configured(method: str, options: dict[str, Any]) -> Any:
    """A method's configuration from the options that were given (not None).

    Raises:
        UnknownNameError: there is no such method.
        SettingsError: an option that it does not have, or one that it needs is not there.
    """
    from subcircuit.search import METHODS

    if method not in METHODS:
        raise UnknownNameError("method", method, tuple(METHODS))
    settings = METHODS[method].settings
    given = {name: value for name, value in options.items() if value is not None}
    known = {field.name: field.default is MISSING for field in fields(settings)}
    for name in given:
        if name not in known:
            raise SettingsError(f"method {method} has no option --{name.replace('_', '-')}")
    for name, required in known.items():
        if required and name not in given:
            raise SettingsError(f"method {method} needs --{name.replace('_', '-')}")
    return settings(**given)
