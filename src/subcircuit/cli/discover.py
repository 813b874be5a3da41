"""``subcircuit discover``: find a circuit and write it to a directory."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from subcircuit.cli.arguments import (
    Ablation,
    Bos,
    Device,
    Drawn,
    Dtype,
    JsonSummary,
    ModelName,
    Revision,
    ScopeText,
    Split,
    TaskName,
)
from subcircuit.cli.config_file import Config
from subcircuit.cli.output import Output
from subcircuit.cli.pool import Ray, Workers, pool_of
from subcircuit.runs.option_texts import parse_settings, parse_targets
from subcircuit.runs.spec import DiscoverSpec

_METHOD = "Options of the method"
_SELECTION = "Selection of edges, for methods that score them"

Examples: TypeAlias = Annotated[int | None, typer.Option(help="Number of search pairs. Default: 8, or half of a file.")]
Method: TypeAlias = Annotated[
    str | None, typer.Option(help="Search method, see `subcircuit methods`. Default: refine; acdc with --threshold.")
]
Target: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Stopping target of refine: faithfulness=0.95 or kl=0.5 (nats) on validation prompts, or edges=200; repeat for several. "
        "Default: faithfulness=0.95.",
        rich_help_panel=_METHOD,
    ),
]
Measured: TypeAlias = Annotated[
    str | None, typer.Option(help="Metric that the circuit must preserve (see `subcircuit metrics`). Default: the task's own.")
]
CoarseToFine: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--coarse-to-fine",
        help="acdc: cut whole blocks first, and search only inside the kept ones.",
        rich_help_panel=_METHOD,
    ),
]
Kv: TypeAlias = Annotated[str, typer.Option(help="Inputs of shared keys and values: per_query_head or grouped.")]
SplitEmbeddings: TypeAlias = Annotated[
    bool, typer.Option("--split-embeddings", help="Make token and position embeddings two nodes.")
]
Out: TypeAlias = Annotated[Path | None, typer.Option(help="New or empty directory. Default: runs/<task>-<model>-<number>.")]
Threshold: TypeAlias = Annotated[
    float | None,
    typer.Option(
        help="acdc: largest loss of the metric for which an edge is cut (default 0.02). Other methods: smallest score of a kept edge.",
        rich_help_panel=_METHOD,
    ),
]
WholeInput: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--whole-input/--no-whole-input", help="acdc: first cut all edges into a reader at once.", rich_help_panel=_METHOD
    ),
]
Absolute: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--absolute/--no-absolute", help="acdc: also keep edges whose cut improves the metric.", rich_help_panel=_METHOD
    ),
]
HeadOrder: TypeAlias = Annotated[
    str | None, typer.Option(help="acdc: order of the heads of a layer, descending or ascending.", rich_help_panel=_METHOD)
]
Direction: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="acdc, exact: cut edges of the model (noising), restore edges in the corrupted run (denoising), or both.",
        rich_help_panel=_METHOD,
    ),
]
Speculation: TypeAlias = Annotated[
    int | None, typer.Option(help="acdc: number of speculative trials; it does not change the result.", rich_help_panel=_METHOD)
]
BatchSize: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help="Number of prompts per batch (acdc: pairs of a circuit and a prompt); it does not change the result.",
        rich_help_panel=_METHOD,
    ),
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Setting of the method (see `subcircuit methods`) or of the ablation optimal (optimal.NAME=VALUE); repeat for several.",
        rich_help_panel=_METHOD,
    ),
]
Edges: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Size of the circuit: a number, or a share of the graph. Default: 1%.", rich_help_panel=_SELECTION),
]
Greedy: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--greedy",
        help="Grow the circuit from the logits along the best edge, so that all edges are connected.",
        rich_help_panel=_SELECTION,
    ),
]
By: TypeAlias = Annotated[
    str,
    typer.Option(
        help="Ranking: absolute (edges whose cut changes the metric) or signed (edges whose cut worsens it).",
        rich_help_panel=_SELECTION,
    ),
]


def options(
    model: ModelName,
    task: TaskName,
    examples: Examples = None,
    split: Split = None,
    seed: Drawn = 0,
    method: Method = None,
    target: Target = None,
    metric: Measured = None,
    ablation: Ablation = "resample",
    scope: ScopeText = "qkv",
    coarse_to_fine: CoarseToFine = False,
    kv: Kv = "per_query_head",
    split_embeddings: SplitEmbeddings = False,
    bos: Bos = "auto",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    out: Out = None,
    config: Config = None,
    json: JsonSummary = False,
    threshold: Threshold = None,
    whole_input: WholeInput = None,
    absolute: Absolute = None,
    head_order: HeadOrder = None,
    direction: Direction = None,
    speculation: Speculation = None,
    batch_size: BatchSize = None,
    settings: Settings = None,
    workers: Workers = 1,
    ray: Ray = None,
    edges: Edges = None,
    greedy: Greedy = False,
    by: By = "absolute",
) -> tuple[DiscoverSpec, Output]:
    """The spec of a search, and where its result goes."""
    flags = {
        "coarse_to_fine": coarse_to_fine or None,
        "whole_input": whole_input,
        "absolute": absolute,
        "head_order": head_order,
        "direction": direction,
        "speculation": speculation,
        "batch_size": batch_size,
    }
    spec = DiscoverSpec(
        model=model,
        task=task,
        examples=examples,
        split=split,
        seed=seed,
        method=method or "",
        target=parse_targets(target or ()),
        metric=metric,
        ablation=ablation,
        scope=scope,
        kv=kv,
        split_embeddings=split_embeddings,
        bos=bos,
        device=device,
        dtype=dtype,
        revision=revision,
        threshold=threshold,
        settings={name: value for name, value in flags.items() if value is not None} | parse_settings(settings or ()),
        workers=workers,
        ray=ray,
        edges=edges,
        greedy=greedy,
        by=by,
    )
    return spec, Output(out, json)


def discover(spec: DiscoverSpec, output: Output) -> None:
    """Find the circuit that carries out a task in a model.

    Measures it on prompts that the search did not use and reports that first. Writes circuit.json, scores.safetensors,
    circuit.svg and circuit.png, and a journal with which `subcircuit resume` continues an interrupted search. Never overwrites
    files that exist.
    """
    from subcircuit.cli.console import messages
    from subcircuit.cli.progress import in_words, watch
    from subcircuit.cli.summary import print_run
    from subcircuit.runs.search import run

    directory = output.directory(spec.task, spec.model)
    with watch(messages()) as watcher:
        pool, show = pool_of(spec.workers, spec.ray, watcher.say), watcher.step
        circuit = run(spec, directory, pool=pool, source=output.source, say=watcher.say, on_step=show, words=in_words())
    print_run(directory, circuit, as_json=output.json, given={"model": spec.model, "task": spec.task})
