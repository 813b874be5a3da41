"""``subcircuit discover``: find a circuit and write it to a directory."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

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
from subcircuit.runs.spec import DiscoverSpec, parse_settings, parse_targets

if TYPE_CHECKING:
    from subcircuit.search.journal import Journal
    from subcircuit.tasks import Split as Prompts

_METHOD = "Options of the method; without them, its defaults"
_SELECTION = "Which edges make the circuit, for methods that score them"

Examples: TypeAlias = Annotated[
    int | None, typer.Option(help="How many pairs of prompts to search with. Default: 8, or half of a file.")
]
Method: TypeAlias = Annotated[
    str | None, typer.Option(help="Search method, see `subcircuit methods`. Default: refine; acdc with --threshold.")
]
Target: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="refine: stop at faithfulness=0.95, kl=0.5 (nats) on validation prompts, or edges=200; several together. Default: "
        "faithfulness=0.95.",
        rich_help_panel=_METHOD,
    ),
]
Measured: TypeAlias = Annotated[
    str | None, typer.Option(help="What must stay as it is; see `subcircuit metrics`. Default: the task's own.")
]
CoarseToFine: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--coarse-to-fine",
        help="acdc: cut whole blocks first, and look only into those that stay.",
        rich_help_panel=_METHOD,
    ),
]
Kv: TypeAlias = Annotated[str, typer.Option(help="Key and value inputs where heads share them: per_query_head, grouped.")]
SplitEmbeddings: TypeAlias = Annotated[
    bool, typer.Option("--split-embeddings", help="Token and position embeddings as two nodes.")
]
Out: TypeAlias = Annotated[Path | None, typer.Option(help="New or empty directory. Default: runs/<task>-<model>-<number>.")]
Threshold: TypeAlias = Annotated[
    float | None,
    typer.Option(
        help="acdc: an edge whose cut changes the metric by less is cut. Others: the least score of an edge that is kept.",
        rich_help_panel=_METHOD,
    ),
]
WholeInput: TypeAlias = Annotated[
    bool | None,
    typer.Option("--whole-input/--no-whole-input", help="Try all edges into a reader at once first.", rich_help_panel=_METHOD),
]
Absolute: TypeAlias = Annotated[
    bool | None, typer.Option("--absolute/--no-absolute", help="Improvements count as changes too.", rich_help_panel=_METHOD)
]
HeadOrder: TypeAlias = Annotated[str | None, typer.Option(help="descending, ascending.", rich_help_panel=_METHOD)]
Direction: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="acdc, exact: cut edges of the model (noising), restore edges to the corrupted run (denoising), or both.",
        rich_help_panel=_METHOD,
    ),
]
Speculation: TypeAlias = Annotated[
    int | None, typer.Option(help="Trials evaluated ahead; the result does not depend on it.", rich_help_panel=_METHOD)
]
BatchSize: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help="Prompts (acdc: pairs of a circuit and a prompt) evaluated at once; the result does not depend on it.",
        rich_help_panel=_METHOD,
    ),
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting of the method, see `subcircuit methods`, or optimal.NAME=VALUE.",
        rich_help_panel=_METHOD,
    ),
]
Edges: TypeAlias = Annotated[
    str | None, typer.Option(help="How many: a number, or a share. Default: 1%.", rich_help_panel=_SELECTION)
]
Greedy: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--greedy", help="Grow from the logits, always along the best edge, so that all connect.", rich_help_panel=_SELECTION
    ),
]
By: TypeAlias = Annotated[
    str, typer.Option(help="absolute (edges that matter either way) or signed scores.", rich_help_panel=_SELECTION)
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
    """Find the circuit with which a model carries out a task.

    Measures it on prompts that the search did not use and reports that first. Writes circuit.json, scores.safetensors,
    circuit.svg and circuit.png, and a journal with which `subcircuit resume` continues an interrupted search. Never overwrites
    files that exist.
    """
    from subcircuit.cli.console import messages
    from subcircuit.cli.output import save_found
    from subcircuit.cli.progress import both, in_words, watch
    from subcircuit.cli.summary import print_run
    from subcircuit.evaluate import discover_split
    from subcircuit.graph import Circuit
    from subcircuit.runs import ProgressFile, identity
    from subcircuit.search.memory import shortage
    from subcircuit.tasks import competence, shortfall

    spec.check()
    directory = output.directory(spec.task, spec.model)
    with watch(messages()) as watcher:
        pool = pool_of(spec.workers, spec.ray, watcher.say)
        loaded = spec.load(watcher.say)
        problem, split = loaded.problem, loaded.split
        lacking = shortfall(problem.model, problem.task, competence(problem.model, problem.task))
        short = shortage(problem, loaded.method.memory(problem))
        for warning in (lacking, short):
            if warning is not None:
                watcher.say(f"warning: {warning}")
        watcher.say(_held_out(split))
        watcher.say(f"searching for the circuit of {problem.task.name}, {len(problem.task.pairs)} pairs of prompts")

        def work(journal: "Journal") -> None:
            shown = ProgressFile(directory, Circuit.empty(problem.graph), in_words())
            how = {"selection": loaded.selection, "learning": loaded.learning}
            searching = partial(discover_split, problem, loaded.method, split, **how)
            result = pool.run(searching, journal, say=watcher.say, on_step=both(watcher.step, shown.step))
            save_found(result, directory)
            shown.end()

        output.run(directory, spec, identity(problem.model, split), work, watcher.say)
    print_run(directory, Circuit.load(directory), as_json=output.json, given={"model": spec.model, "task": spec.task})


def _held_out(split: "Prompts") -> str:
    """A line about the prompts that the search does not use."""
    parts = split.parts
    if "test" not in parts:
        return (
            "warning: the split has no test prompts, so nothing can show how the circuit does on new prompts: a circuit does better "
            "on the prompts that it was found with"
        )
    chosen = f", {len(parts['validation'])} validation prompts" if "validation" in parts else ""
    return f"held out: {len(parts['test'])} test prompts{chosen}"
