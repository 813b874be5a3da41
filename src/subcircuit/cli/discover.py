"""``subcircuit discover``: find a circuit and write it to a directory."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

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
from subcircuit.cli.pool import Ray, Workers, pool_of

if TYPE_CHECKING:
    from subcircuit.cli.journal import Begun
    from subcircuit.search.journal import Journal

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


def discover(
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
) -> None:
    """Find the circuit with which a model carries out a task.

    What it does on prompts that were not searched with is measured then, and told of first. Writes circuit.json,
    scores.safetensors, circuit.svg and circuit.png, and a journal from which `subcircuit resume` goes on where the search was
    stopped. Nothing that exists is overwritten.
    """
    search_for({"command": "discover", **locals()})


def search_for(asked: dict[str, Any], begun: "Begun | None" = None) -> None:
    """Begin a search with these options of ``discover``, or go on with one."""
    from subcircuit.cli.console import messages
    from subcircuit.cli.journal import directory_for, keep, save_found
    from subcircuit.cli.progress import both, in_words, watch
    from subcircuit.cli.request import told_of, understood, with_method
    from subcircuit.cli.summary import print_run
    from subcircuit.evaluate import discover as search
    from subcircuit.graph import Circuit
    from subcircuit.runs import ProgressFile, identity
    from subcircuit.search.memory import shortage
    from subcircuit.tasks import competence, shortfall

    asked = with_method(asked)
    o = SimpleNamespace(**asked)
    # what can be refused is refused before anything large is loaded
    options = understood(o)
    directory = directory_for(begun, o.out, o.task, o.model)
    with watch(messages()) as watcher:
        pool = pool_of(o.workers, o.ray, watcher.say)
        at = options.load(watcher.say)
        lacking = shortfall(at.problem.model, at.problem.task, competence(at.problem.model, at.problem.task))
        if lacking is not None:
            watcher.say(f"warning: {lacking}")
        short = shortage(at.problem, options.config.memory(at.problem))
        if short is not None:
            watcher.say(f"warning: {short}")
        for line in told_of(at.split):
            watcher.say(line)
        watcher.say(f"searching for the circuit of {at.problem.task.name}, {len(at.problem.task.pairs)} pairs of prompts")

        def work(journal: "Journal") -> None:
            shown = ProgressFile(directory, Circuit.empty(at.problem.graph), in_words())

            searching = partial(
                search,
                at.problem.model,
                at.split,
                method=options.config,
                metric=o.metric,
                ablation=options.ablation,
                scope=options.scope,
                selection=at.selection,
            )
            told = both(watcher.step, shown.step)
            result = pool.run(searching, journal, say=watcher.say, on_step=told)
            save_found(result, directory)
            shown.end()

        keep(asked, identity(at.problem.model, at.split), (directory, begun), work, watcher.say)
    print_run(directory, Circuit.load(directory), as_json=o.json, given={"model": o.model, "task": o.task})
