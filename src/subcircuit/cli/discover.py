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
    from subcircuit.cli.console import messages
    from subcircuit.cli.kept import directory_for, keep
    from subcircuit.cli.options import Chosen, ablation_asked, bos_policy, configured, split_settings
    from subcircuit.cli.progress import in_words, watch
    from subcircuit.cli.summary import print_run
    from subcircuit.errors import SettingsError
    from subcircuit.graph import Circuit, Scope
    from subcircuit.graph.select import check_selection
    from subcircuit.model import load_model
    from subcircuit.report import save_picture
    from subcircuit.run import Mean, ablation_named
    from subcircuit.runs import Beacon, identity
    from subcircuit.search import Behaviour, Round, Step, method_named
    from subcircuit.search import discover as search
    from subcircuit.search.direction import check_start
    from subcircuit.tasks import competence, graph_of, load_task, shortfall
    from subcircuit.tasks import metric as metric_named
    from subcircuit.workers import together

    o = SimpleNamespace(**asked)
    # what can be refused is refused before anything large is loaded
    ranks = method_named(o.method).ranks
    if not ranks and (o.edges is not None or o.greedy or o.by != "absolute"):
        raise SettingsError(f"method {o.method} decides itself which edges to keep: it has no --edges, --greedy or --by")
    given = {name: asked[name] for name in ("whole_input", "absolute", "head_order", "direction", "speculation", "batch_size")}
    given |= {} if ranks else {"threshold": o.threshold}
    own, learning = split_settings(o.settings or ())
    config, carried = configured(o.method, given, own, o.seed), ablation_asked(o.ablation, learning, o.seed)
    check_start(o.ablation, getattr(config, "direction", "noising"))
    chosen = Chosen(o.edges, o.threshold, o.greedy, o.by) if ranks else None
    resolved = Scope.named(o.scope, o.kv, o.split_embeddings)
    policy = bos_policy(o.bos)
    if o.metric is not None:
        metric_named(o.metric)
    directory = directory_for(begun, o.out, o.task, o.model)
    with watch(messages()) as watcher:
        crew = crew_of(o.workers, o.ray, watcher.say)
        watcher.say(f"loading {o.model}")
        transformer = load_model(o.model, revision=o.revision, device=o.device, dtype=o.dtype, report=watcher.say)
        behaviour = load_task(o.task, transformer, examples=o.examples, seed=o.seed, bos=policy)
        graph = graph_of(transformer, resolved, behaviour)
        selection = None if chosen is None else chosen.selection(graph)
        if selection is not None:
            check_selection(graph, selection)
        method_named(o.method).check(
            Behaviour(behaviour, metric_named(o.metric or behaviour.metric), Mean() if learning else ablation_named(o.ablation))
        )
        lacking = shortfall(transformer, behaviour, competence(transformer, behaviour))
        if lacking is not None:
            watcher.say(f"warning: {lacking}")
        watcher.say(f"searching for the circuit of {behaviour.name}, {len(behaviour.pairs)} pairs of prompts")

        def work(journal: "Journal") -> None:
            beacon = Beacon(directory, Circuit.empty(graph), in_words())

            def on_step(step: Step | Round) -> None:
                watcher.step(step)
                beacon.step(step)

            searching = partial(
                search,
                task=behaviour,
                method=config,
                metric=o.metric,
                ablation=carried,
                scope=resolved,
                selection=selection,
                descend=o.coarse_to_fine,
            )
            result = together(searching, transformer, crew, journal, say=watcher.say, on_step=on_step)
            result.circuit.save(directory)
            save_picture(result.circuit, directory)
            beacon.end()

        keep(asked, identity(transformer, behaviour), (directory, begun), work, watcher.say)
    print_run(directory, Circuit.load(directory), as_json=o.json)
