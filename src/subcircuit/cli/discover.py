"""``subcircuit discover``: find a circuit and write it to a directory."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit.cli.arguments import Bos, Device, Dtype, JsonSummary, ModelName, Revision, TaskName

if TYPE_CHECKING:
    from subcircuit.cli.kept import Begun
    from subcircuit.search.journal import Journal

from subcircuit.cli.config_file import Config
from subcircuit.cli.crew import Ray, Workers, crew_of

_METHOD = "Options of the method; without them, its defaults"
_SELECTION = "Which edges make the circuit, for methods that score them"


def discover(
    model: ModelName,
    task: TaskName,
    examples: Annotated[int | None, typer.Option(help="How many pairs of prompts. Default: 8, or all of a file.")] = None,
    seed: Annotated[int, typer.Option(help="Of the prompts, and of methods that draw.")] = 0,
    method: Annotated[str, typer.Option(help="How to search; see `subcircuit methods`.")] = "acdc",
    metric: Annotated[
        str | None, typer.Option(help="What must stay as it is; see `subcircuit metrics`. Default: the task's own.")
    ] = None,
    ablation: Annotated[
        str, typer.Option(help="What cut edges carry: resample, zero, mean, mean-by-position, optimal.")
    ] = "resample",
    scope: Annotated[
        str, typer.Option(help='What counts as a node: block, head, qkv, expert, or mixed: "qkv, m5=neuron, a9=block".')
    ] = "qkv",
    coarse_to_fine: Annotated[
        bool,
        typer.Option(
            "--coarse-to-fine",
            help="Search from blocks down to --scope, at every level only inside what the one above kept.",
            rich_help_panel=_METHOD,
        ),
    ] = False,
    kv: Annotated[
        str, typer.Option(help="Key and value inputs where heads share them: per_query_head, grouped.")
    ] = "per_query_head",
    split_embeddings: Annotated[
        bool, typer.Option("--split-embeddings", help="Token and position embeddings as two nodes.")
    ] = False,
    bos: Bos = "auto",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    out: Annotated[Path | None, typer.Option(help="New or empty directory. Default: runs/<task>-<model>-<number>.")] = None,
    config: Config = None,
    json: JsonSummary = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="acdc: an edge whose cut changes the metric by less is cut. Others: the least score of an edge that is kept.",
            rich_help_panel=_METHOD,
        ),
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
    direction: Annotated[
        str | None,
        typer.Option(
            help="acdc, exact: cut edges of the model (noising), restore edges to the corrupted run (denoising), or both.",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    speculation: Annotated[
        int | None, typer.Option(help="Trials evaluated ahead; the result does not depend on it.", rich_help_panel=_METHOD)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Prompts (acdc: pairs of a circuit and a prompt) evaluated at once; the result does not depend on it.",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any setting of the method, see `subcircuit methods`, or optimal.NAME=VALUE.",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    workers: Workers = 1,
    ray: Ray = None,
    edges: Annotated[
        str | None, typer.Option(help="How many: a number, or a share. Default: 1%.", rich_help_panel=_SELECTION)
    ] = None,
    greedy: Annotated[
        bool,
        typer.Option(
            "--greedy", help="Grow from the logits, always along the best edge, so that all connect.", rich_help_panel=_SELECTION
        ),
    ] = False,
    by: Annotated[
        str, typer.Option(help="absolute (edges that matter either way) or signed scores.", rich_help_panel=_SELECTION)
    ] = "absolute",
) -> None:
    """Find the circuit with which a model carries out a task.

    Writes circuit.json, scores.safetensors, circuit.svg and circuit.png, and a journal from which `subcircuit resume` goes on
    where the search was stopped. Nothing that exists is overwritten.
    """
    search_for({"command": "discover", **locals()})


def search_for(asked: dict[str, Any], begun: "Begun | None" = None) -> None:
    """Begin a search with these options of ``discover``, or go on with one."""
    from subcircuit.cli.asked import understood
    from subcircuit.cli.console import messages
    from subcircuit.cli.kept import directory_for, keep
    from subcircuit.cli.progress import in_words, watch
    from subcircuit.cli.summary import print_run
    from subcircuit.graph import Circuit
    from subcircuit.report import save_picture
    from subcircuit.runs import Beacon, identity
    from subcircuit.search import Round, Step
    from subcircuit.search import discover as search
    from subcircuit.search.footprint import shortage
    from subcircuit.tasks import competence, shortfall
    from subcircuit.workers import together

    o = SimpleNamespace(**asked)
    # what can be refused is refused before anything large is loaded
    options = understood(o)
    directory = directory_for(begun, o.out, o.task, o.model)
    with watch(messages()) as watcher:
        crew = crew_of(o.workers, o.ray, watcher.say)
        at = options.load(watcher.say)
        lacking = shortfall(at.model, at.task, competence(at.model, at.task))
        if lacking is not None:
            watcher.say(f"warning: {lacking}")
        short = shortage(at.model, at.graph, at.behaviour, options.config)
        if short is not None:
            watcher.say(f"warning: {short}")
        watcher.say(f"searching for the circuit of {at.task.name}, {len(at.task.pairs)} pairs of prompts")

        def work(journal: "Journal") -> None:
            beacon = Beacon(directory, Circuit.empty(at.graph), in_words())

            def on_step(step: Step | Round) -> None:
                watcher.step(step)
                beacon.step(step)

            searching = partial(
                search,
                task=at.task,
                method=options.config,
                metric=o.metric,
                ablation=options.ablation,
                scope=options.scope,
                selection=at.selection,
                descend=o.coarse_to_fine,
            )
            result = together(searching, at.model, crew, journal, say=watcher.say, on_step=on_step)
            result.circuit.save(directory)
            save_picture(result.circuit, directory)
            beacon.end()

        keep(asked, identity(at.model, at.task), (directory, begun), work, watcher.say)
    print_run(directory, Circuit.load(directory), as_json=o.json)
