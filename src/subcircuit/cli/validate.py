"""``subcircuit validate``: searches against circuits that are known."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated

import typer

from subcircuit.cli.arguments import JsonTable
from subcircuit.cli.config_file import Config
from subcircuit.cli.pool import Ray, Workers, pool_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from subcircuit.cli.journal import Begun
    from subcircuit.evaluate import Attempt
    from subcircuit.report import Validations
    from subcircuit.search.journal import Journal

_EVERY = "all"
# in a table of everything, slow methods leave larger graphs out
_MOST_EDGES = 5000


def validate(
    case: Annotated[str, typer.Argument(metavar="CASE|all", help="A known circuit; `subcircuit validate all` runs every one.")],
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method", "--methods", help="Repeat it, or put commas between names. Default: acdc; of `all`, every method."
        ),
    ] = None,
    ablation: Annotated[
        str | None, typer.Option(help="What cut edges carry: resample, zero. Default: resample; of `all`, both.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="See `subcircuit metrics`. Default: the case's own.")] = None,
    direction: Annotated[
        str | None, typer.Option(help="Of acdc and exact: noising (cut edges), denoising (restore edges), both.")
    ] = None,
    by: Annotated[str, typer.Option(help="How scores are ranked: absolute, signed.")] = "absolute",
    thresholds: Annotated[str | None, typer.Option(help="Of acdc, with commas between them: a circuit for each.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="METHOD.NAME=VALUE", help="A setting of one of the methods.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of methods that draw, and of the prompts of published circuits.")] = 0,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Where the model of a published circuit is.")] = None,
    examples: Annotated[int, typer.Option(help="Pairs of prompts of published circuits.")] = 32,
    out: Annotated[Path | None, typer.Option(help="New or empty directory. Default: runs/validate-<case>-<number>.")] = None,
    workers: Workers = 1,
    ray: Ray = None,
    config: Config = None,
    json: JsonTable = False,
) -> None:
    """Search models whose circuits are known, and measure what is found of them again: ROC, AUC, precision, recall.

    Writes validation.json, validation.csv, points.csv, validation.md, and roc or table as svg and png, and a journal from
    which `subcircuit resume` goes on where the command was stopped.
    """
    validate_for({"command": "validate", **locals()})


def validate_for(asked: "dict[str, Any]", begun: "Begun | None" = None) -> None:
    """Begin with these options of ``validate``, or go on."""
    from subcircuit.cli.console import messages, plain, print_json, results
    from subcircuit.cli.journal import directory_for, keep
    from subcircuit.cli.options import configured, names_in, numbers, ranked_by, settings_of
    from subcircuit.cli.progress import quiet_at_first, watch
    from subcircuit.engine import ablation_named
    from subcircuit.errors import UnknownNameError
    from subcircuit.evaluate import Conditions, validations
    from subcircuit.report import Validations, save_validations
    from subcircuit.search import METHODS
    from subcircuit.tasks import metric as metric_named
    from subcircuit.truth import Setting, known_cases

    o = SimpleNamespace(**asked)
    every = o.case == _EVERY
    names = names_in(o.methods or (list(METHODS) if every else ["acdc"]))
    own = settings_of(names, o.settings or ())
    configs = [configured(name, _directed(name, o.direction, names), own[name], o.seed) for name in names]
    ablations = [ablation_named(name) for name in _ablations(o.ablation, every)]
    cuts = None if o.thresholds is None else numbers("thresholds", o.thresholds)
    metric = None if o.metric is None else metric_named(o.metric)
    conditions = Conditions(metric, ranked_by(o.by), cuts, _MOST_EDGES if every else None)
    cases = known_cases(Setting(o.model, o.examples, o.seed))
    if not every and o.case not in cases:
        raise UnknownNameError("case", o.case, (*cases, _EVERY))
    directory = directory_for(begun, o.out, "validate", o.case)
    made: list[Validations] = []
    with watch(messages()) as watcher:
        pool = pool_of(o.workers, o.ray, watcher.say)

        def work(journal: "Journal") -> None:
            chosen, step = cases if every else {o.case: cases[o.case]}, quiet_at_first(watcher.step)
            validating, told = (
                partial(validations, chosen, ablations, configs, conditions),
                {"on_start": watcher.say, "on_step": step},
            )
            attempts = pool.run(validating, journal, say=watcher.say, **told)
            made.append(Validations(tuple(_told(attempts, every, watcher.say))))
            save_validations(made[0], directory)

        keep(asked, _found(o.model), (directory, begun), work, watcher.say)
    if o.json:
        print_json({**made[0].to_json(), "out": str(directory)})
        return
    _show(made[0], every)
    results().print()
    results().print(plain(f"written   {directory}"), soft_wrap=True)


def _found(model: str | None) -> dict[str, str]:
    """What the cases depend on: versions of what makes them, and of a model's folder that was named its files."""
    from importlib.metadata import version

    from subcircuit.model.load.directory import digest_of_checkpoint

    versions = {package: version(package) for package in ("subcircuit", "torch")}
    # of a folder alone, which may change: a case says itself why it cannot be had
    folder = None if model is None else Path(model).expanduser()
    if folder is None or not (folder / "config.json").is_file():
        return versions
    return {**versions, "checkpoint": digest_of_checkpoint(folder)}


def _ablations(asked: str | None, every: bool) -> tuple[str, ...]:
    if asked is not None:
        return (asked,)
    return ("zero", "resample") if every else ("resample",)


def _directed(name: str, direction: str | None, methods: "Sequence[str]") -> "dict[str, str]":
    """The direction as a setting of a method that has one; at least one of the methods must."""
    from subcircuit.errors import SettingsError
    from subcircuit.search import METHODS

    directed = [known for known, method in METHODS.items() if "direction" in method.__dataclass_fields__]
    if direction is None:
        return {}
    if not set(directed) & set(methods):
        raise SettingsError(f"--direction {direction}: {' and '.join(directed)} have one, {', '.join(methods)} have not")
    return {"direction": direction} if name in directed else {}


def _told(attempts: "Iterable[Attempt]", go_on: bool, say: "Callable[[str], None]") -> "Iterator[Attempt]":
    """The attempts; each reason for which a case cannot be had is said once, and what was asked for by name must run.

    A method without a gradient is told in the table of those that have one."""
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
        raise SubcircuitError("nothing could be run: " + "; ".join(dict.fromkeys(one.note for one in refused.values())))


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
