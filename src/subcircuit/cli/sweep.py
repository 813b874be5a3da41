"""``subcircuit sweep``: a comparison of search methods."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from subcircuit.cli.config_file import Config
from subcircuit.cli.output import Output
from subcircuit.cli.pool import Ray, Workers, pool_of
from subcircuit.runs.option_texts import parse_settings
from subcircuit.runs.spec import SweepSpec

if TYPE_CHECKING:
    from subcircuit.report import Sweep
    from subcircuit.search.journal import Journal


def sweep(
    model: ModelName,
    task: TaskName,
    methods: Annotated[
        list[str],
        typer.Option("--method", "--methods", help="Methods (see `subcircuit methods`), separated by commas; may be repeated."),
    ],
    examples: Annotated[
        int | None,
        typer.Option(help="Number of search pairs. Default: 32, or half of the prompts if there are fewer; half of a file."),
    ] = None,
    eval_examples: Annotated[
        int | None,
        typer.Option(help="Number of test pairs. Default: those of the split, 64 for a built-in task."),
    ] = None,
    split: Split = None,
    seed: Drawn = 0,
    metric: Metric = None,
    ablation: Ablation = "resample",
    scope: ScopeText = "qkv",
    by: Annotated[str, typer.Option(help="Ranking of scores: signed or absolute.")] = "signed",
    thresholds: Annotated[str | None, typer.Option(help="Thresholds of acdc, separated by commas: one circuit each.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="METHOD.NAME=VALUE", help="Setting of a method, or of the ablation optimal; repeat for several."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Number of prompts per batch; it does not change the result.")] = 16,
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
    """Compare several methods on test prompts: faithfulness at ten sizes, and cost.

    Writes sweep.json, methods.csv, points.csv, sweep.svg and sweep.png, and a journal with which `subcircuit resume` continues
    an interrupted sweep.
    """
    sweep_run(
        SweepSpec(
            model=model,
            task=task,
            methods=methods,
            examples=examples,
            eval_examples=eval_examples,
            split=split,
            seed=seed,
            metric=metric,
            ablation=ablation,
            scope=scope,
            by=by,
            thresholds=thresholds,
            settings=parse_settings(settings or ()),
            batch_size=batch_size,
            bos=bos,
            device=device,
            dtype=dtype,
            revision=revision,
            workers=workers,
            ray=ray,
        ),
        Output(out, json),
    )


def sweep_run(spec: SweepSpec, output: Output) -> None:
    """Compare methods as a spec says, or resume such a comparison."""
    from dataclasses import replace
    from functools import partial

    from subcircuit.cli.console import messages
    from subcircuit.cli.progress import watch
    from subcircuit.engine import Mean
    from subcircuit.evaluate import THRESHOLDS, Contest, contend
    from subcircuit.report import Sweep, save_sweep
    from subcircuit.runs import identity
    from subcircuit.runs.search import run_from
    from subcircuit.search import Problem, ablation_for

    configs, cuts = spec.configured(), spec.cuts()
    directory = output.directory(f"sweep-{spec.task}", spec.model)
    with watch(messages()) as watcher:
        pool = pool_of(spec.workers, spec.ray, watcher.say)
        model, split = spec.load(watcher.say)
        found_on, judged_on = split.search, split.test
        assert judged_on is not None
        uncut = Problem.of(model, found_on, spec.metric, Mean(), spec.resolved())

        def work(journal: "Journal") -> Sweep:
            cut = ablation_for(spec.carried(), uncut, watcher.step, journal)
            search_on = replace(uncut, ablation=cut)
            judge_on = replace(search_on, task=judged_on.to(model.device))
            thresholds = THRESHOLDS if cuts is None else cuts
            contest = Contest(search_on, judge_on, by=spec.order(), thresholds=thresholds, batch_size=spec.batch_size)
            contest.check(configs)
            told = {"on_start": watcher.say, "on_step": watcher.step}
            contenders = pool.run(partial(contend, contest, configs), journal, say=watcher.say, **told)
            result = Sweep.of(contest, contenders, configs)
            save_sweep(result, directory)
            return result

        found = {**identity(model, found_on), "judged_on": judged_on.digest}
        made = run_from(spec, directory, found, work, output.source, watcher.say)
    _show(made, directory, as_json=output.json)


def _show(made: "Sweep", directory: Path, *, as_json: bool) -> None:
    from subcircuit.cli.console import plain, print_json, print_table, results

    if as_json:
        print_json({**made.to_json(), "out": str(directory)})
        return
    print_table(made.header, made.rows, results())
    results().print()
    results().print(plain(f"written   {directory}"), soft_wrap=True)
    results().print(plain(f"picture   {directory / 'sweep.png'}"), soft_wrap=True)
