"""``subcircuit validate``: searches of models whose circuits are known."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subcircuit.cli.arguments import JsonTable
from subcircuit.cli.config_file import Config
from subcircuit.cli.output import Output
from subcircuit.cli.pool import Ray, Workers, pool_of
from subcircuit.runs.option_texts import parse_settings
from subcircuit.runs.spec import ValidateSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from subcircuit.evaluate import Attempt
    from subcircuit.report import Validations
    from subcircuit.search.journal import Journal

# in a table of everything, slow methods leave larger graphs out
_MOST_EDGES = 5000


def validate(
    case: Annotated[str, typer.Argument(metavar="CASE|all", help="Known circuit, or all for every one.")],
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method", "--methods", help="Methods, separated by commas; may be repeated. Default: acdc; for `all`, every method."
        ),
    ] = None,
    ablation: Annotated[
        str | None, typer.Option(help="Values of cut edges: resample or zero. Default: resample; for `all`, both.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Metric of the search (see `subcircuit metrics`). Default: the case's own.")
    ] = None,
    direction: Annotated[
        str | None, typer.Option(help="Direction of acdc and exact: noising (cut edges), denoising (restore edges) or both.")
    ] = None,
    by: Annotated[str, typer.Option(help="Ranking of scores: absolute or signed.")] = "absolute",
    thresholds: Annotated[str | None, typer.Option(help="Thresholds of acdc, separated by commas: one circuit each.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="METHOD.NAME=VALUE", help="Setting of one of the methods; repeat for several."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed for stochastic methods and for prompts of published circuits.")] = 0,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Model of a published circuit: name, directory or file. Default: the publication's."),
    ] = None,
    examples: Annotated[int, typer.Option(help="Number of pairs of prompts of published circuits.")] = 32,
    out: Annotated[Path | None, typer.Option(help="New or empty directory. Default: runs/validate-<case>-<number>.")] = None,
    workers: Workers = 1,
    ray: Ray = None,
    config: Config = None,
    json: JsonTable = False,
) -> None:
    """Search models whose circuits are known, and measure recovery: ROC, AUC, precision, recall.

    Writes validation.json, validation.csv, points.csv, validation.md, and roc or table as svg and png, and a journal with
    which `subcircuit resume` continues an interrupted run.
    """
    validate_run(
        ValidateSpec(
            case=case,
            methods=methods or [],
            ablation=ablation,
            metric=metric,
            direction=direction,
            by=by,
            thresholds=thresholds,
            settings=parse_settings(settings or ()),
            seed=seed,
            model=model,
            examples=examples,
            workers=workers,
            ray=ray,
        ),
        Output(out, json),
    )


def validate_run(spec: ValidateSpec, output: Output) -> None:
    """Search known circuits as a spec says, or resume such searches."""
    from subcircuit.cli.console import messages, plain, print_json, results
    from subcircuit.cli.progress import quiet_at_first, watch
    from subcircuit.engine import ablation_named
    from subcircuit.errors import UnknownNameError
    from subcircuit.evaluate import Conditions, validations
    from subcircuit.report import Validations, save_validations
    from subcircuit.runs.search import run_from
    from subcircuit.tasks import metric as metric_named
    from subcircuit.truth import Setting, known_cases

    every, configs = spec.every(), spec.configured()
    ablations = [ablation_named(name) for name in spec.ablations()]
    metric = None if spec.metric is None else metric_named(spec.metric)
    conditions = Conditions(metric, spec.order(), spec.cuts(), _MOST_EDGES if every else None)
    cases = known_cases(Setting(spec.model, spec.examples, spec.seed))
    if not every and spec.case not in cases:
        raise UnknownNameError("case", spec.case, (*cases, spec.EVERY))
    directory = output.directory("validate", spec.case)
    with watch(messages()) as watcher:
        pool = pool_of(spec.workers, spec.ray, watcher.say)

        def work(journal: "Journal") -> Validations:
            chosen, step = cases if every else {spec.case: cases[spec.case]}, quiet_at_first(watcher.step)
            validating = partial(validations, chosen, ablations, configs, conditions)
            attempts = pool.run(validating, journal, say=watcher.say, on_start=watcher.say, on_step=step)
            result = Validations(tuple(_told(attempts, every, watcher.say)))
            save_validations(result, directory)
            return result

        made = run_from(spec, directory, _found(spec.model), work, output.source, watcher.say)
    if output.json:
        print_json({**made.to_json(), "out": str(directory)})
        return
    _show(made, every)
    results().print()
    results().print(plain(f"written   {directory}"), soft_wrap=True)


def _found(model: str | None) -> dict[str, str]:
    """The identity of the cases: package versions, and the digest of the model's directory if one is given."""
    from importlib.metadata import version

    from subcircuit.model.load.directory import digest_of_checkpoint

    versions = {package: version(package) for package in ("subcircuit", "torch")}
    # only a directory can change; a case reports by itself why its model is not available
    folder = None if model is None else Path(model).expanduser()
    if folder is None or not (folder / "config.json").is_file():
        return versions
    return {**versions, "checkpoint": digest_of_checkpoint(folder)}


def _told(attempts: "Iterable[Attempt]", go_on: bool, say: "Callable[[str], None]") -> "Iterator[Attempt]":
    """The attempts, with one message per reason for which a case cannot run; a case or method given by name must run.

    A method without a gradient has a row in the table instead of a message."""
    from subcircuit.errors import SubcircuitError
    from subcircuit.evaluate import Refusal, Validation

    refused: dict[tuple[str, str], Refusal] = {}
    made = 0
    for attempt in attempts:
        if isinstance(attempt, Refusal):
            if not (go_on or attempt.no_gradient):
                raise SubcircuitError(attempt.note)
            new = (attempt.case, attempt.note) not in refused
            if new and (attempt.metric is None or not go_on):
                say(f"not run: {attempt.case if attempt.metric is None else attempt.method}: {attempt.note}")
            refused[attempt.case, attempt.note] = attempt
        made += isinstance(attempt, Validation)
        yield attempt
    if not made:
        raise SubcircuitError("no search could run: " + "; ".join(dict.fromkeys(one.note for one in refused.values())))


def _show(found: "Validations", every: bool) -> None:
    from subcircuit.cli.console import plain, print_rows, print_table, results
    from subcircuit.report.validation import describe

    console, one = results(), found.made[0]
    if every:
        print_table(found.summary_header, found.summary, console)
        console.print(plain("mean AUC over the cases", "dim"))
    elif len(found.rows) == 1:
        print_rows(describe(one), console)
    else:
        print_rows(describe(one)[:2], console)
        console.print()
        print_table(found.header, found.rows, console)
        console.print(plain("AP: average precision; precision, recall and F1: of the circuit with the best F1", "dim"))
