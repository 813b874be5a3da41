"""``subcircuit sweep``: search methods side by side."""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subcircuit.cli.arguments import (
    Ablation,
    Bos,
    Device,
    Drawn,
    Dtype,
    JsonTable,
    Metric,
    ModelName,
    Revision,
    ScopeText,
    Split,
    TaskName,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from subcircuit.cli.journal import Begun
    from subcircuit.model import Transformer
    from subcircuit.report import Sweep
    from subcircuit.search.journal import Journal
    from subcircuit.tasks import BosPolicy, Task

from subcircuit.cli.config_file import Config
from subcircuit.cli.pool import Ray, Workers, pool_of

EXAMPLES = 32


def sweep(
    model: ModelName,
    task: TaskName,
    methods: Annotated[
        list[str],
        typer.Option("--method", "--methods", help="See `subcircuit methods`; repeat it, or put commas between names."),
    ],
    examples: Annotated[
        int | None,
        typer.Option(
            help=f"Pairs of prompts to search with. Default: {EXAMPLES}, or half where there are fewer; half of a file."
        ),
    ] = None,
    eval_examples: Annotated[
        int | None,
        typer.Option(help="Other pairs of prompts to judge with. Default: the split's test prompts, 64 of a built-in task."),
    ] = None,
    split: Split = None,
    seed: Drawn = 0,
    metric: Metric = None,
    ablation: Ablation = "resample",
    scope: ScopeText = "qkv",
    by: Annotated[str, typer.Option(help="How scores are ranked: signed, absolute.")] = "signed",
    thresholds: Annotated[str | None, typer.Option(help="Of acdc, with commas between them: a circuit for each.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="METHOD.NAME=VALUE", help="A setting of a method or of learning (optimal)."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Prompts evaluated at once; the result does not depend on it.")] = 16,
    bos: Bos = "auto",
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    out: Annotated[Path | None, typer.Option(help="New or empty directory. Default: runs/sweep-<task>-<model>-<number>.")] = None,
    workers: Workers = 1,
    ray: Ray = None,
    config: Config = None,
    json: JsonTable = False,
) -> None:
    """Search with several methods and judge them on other prompts: faithfulness at ten sizes, and what each costs.

    Writes sweep.json, methods.csv, points.csv, sweep.svg and sweep.png, and a journal from which `subcircuit resume` goes on
    where the sweep was stopped.
    """
    sweep_for({"command": "sweep", **locals()})


def sweep_for(asked: dict[str, Any], begun: "Begun | None" = None) -> None:
    """Begin a sweep with these options of ``sweep``, or go on with one."""
    from dataclasses import replace
    from functools import partial

    from subcircuit.cli.console import messages
    from subcircuit.cli.journal import directory_for, keep
    from subcircuit.cli.options import ablation_asked, bos_policy, numbers, ranked_by, split_settings
    from subcircuit.cli.progress import watch
    from subcircuit.engine import Mean
    from subcircuit.evaluate import THRESHOLDS, Contest, contend
    from subcircuit.graph import Scope
    from subcircuit.report import Sweep, save_sweep
    from subcircuit.runs import identity
    from subcircuit.search import Problem, ablation_for
    from subcircuit.tasks import check_task, parse_shares
    from subcircuit.tasks import metric as metric_named

    o = SimpleNamespace(**asked)
    check_task(o.task)
    if o.split is not None:
        parse_shares(o.split)
    assigned, learning = split_settings(o.settings or ())
    configs, carried = _configs(o, assigned), ablation_asked(o.ablation, learning, o.seed)
    cuts = THRESHOLDS if o.thresholds is None else numbers("thresholds", o.thresholds)
    order, policy, resolved = ranked_by(o.by), bos_policy(o.bos), Scope.named(o.scope)
    if o.metric is not None:
        metric_named(o.metric)
    directory = directory_for(begun, o.out, f"sweep-{o.task}", o.model)
    made: list[Sweep] = []
    with watch(messages()) as watcher:
        pool = pool_of(o.workers, o.ray, watcher.say)
        model, found_on, judged_on = _loaded(o, policy, watcher.say)
        measured = metric_named(o.metric or found_on.metric)
        uncut = Problem.of(model, found_on, measured, Mean(), resolved)

        def work(journal: "Journal") -> None:
            cut = ablation_for(carried, uncut, watcher.step, journal)
            search_on = replace(uncut, ablation=cut)
            judge_on = replace(search_on, task=judged_on.to(model.device))
            contest = Contest(search_on, judge_on, by=order, thresholds=cuts, batch_size=o.batch_size)
            contest.check(configs)
            told = {"on_start": watcher.say, "on_step": watcher.step}
            contenders = pool.run(partial(contend, contest, configs), journal, say=watcher.say, **told)
            made.append(Sweep.of(contest, contenders, configs))
            save_sweep(made[0], directory)

        found = {**identity(model, found_on), "judged_on": judged_on.digest}
        keep(asked, found, (directory, begun), work, watcher.say)
    _show(made[0], directory, as_json=o.json)


def _configs(o: SimpleNamespace, assigned: "list[str]") -> list[Any]:
    """The settings of each method."""
    from subcircuit.cli.options import configured, names_in, settings_of

    names = names_in(o.methods)
    own = settings_of(names, assigned)
    return [configured(name, {}, own[name], o.seed) for name in names]


def _loaded(o: SimpleNamespace, bos: "BosPolicy", say: "Callable[[str], None]") -> "tuple[Transformer, Task, Task]":
    """The model, prompts to search with, and others to judge with."""
    from subcircuit.errors import SettingsError
    from subcircuit.model import load_model
    from subcircuit.tasks import is_prompt_file, load_at_most, load_split

    say(f"loading {o.model}")
    model = load_model(o.model, revision=o.revision, device=o.device, dtype=o.dtype, report=say)
    examples = o.examples
    if examples is None and not is_prompt_file(o.task):
        there = len(load_at_most(o.task, model, examples=2 * EXAMPLES, seed=o.seed, bos=bos))
        examples = min(EXAMPLES, (there + 1) // 2)
    split = load_split(o.task, model, examples=examples, seed=o.seed, bos=bos, split=o.split, test=o.eval_examples)
    if split.test is None:
        raise SettingsError(f"--split {o.split} leaves nothing to judge methods with: a sweep needs test prompts")
    return model, split.search, split.test


def _show(made: "Sweep", directory: Path, *, as_json: bool) -> None:
    from subcircuit.cli.console import plain, print_json, print_table, results

    if as_json:
        print_json({**made.to_json(), "out": str(directory)})
        return
    print_table(made.header, made.rows, results())
    results().print()
    results().print(plain(f"written   {directory}"), soft_wrap=True)
    results().print(plain(f"picture   {directory / 'sweep.png'}"), soft_wrap=True)
