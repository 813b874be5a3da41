"""An edited model on disk, with a report that compares it with the whole model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from subcircuit.edit import (
    Change,
    CutModel,
    EdgeEdit,
    Edit,
    EditEffects,
    Fill,
    NodeEdit,
    Probe,
    Relearned,
    Relearning,
    Removal,
    RemovalSearch,
    RemovalStep,
    Texts,
    effects,
    load_edited,
    nodes_of,
    recovery,
    write_checkpoint,
)
from subcircuit.entry import entry
from subcircuit.graph import Circuit
from subcircuit.io import write_csv, write_json
from subcircuit.model import Transformer, load_model
from subcircuit.report.folder import write_directory
from subcircuit.report.removal_figure import draw_removal
from subcircuit.report.style import save_figure
from subcircuit.search import OnProgress

# shares of a capability that are as good as none
_TURNED = 0.05
_TABLE = ("what", "measure", "before", "after", "left")


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out prompts and texts for measurement; neither the search nor learning used them.

    Args:
        target, retained: prompts of the same tasks.
        texts: None for models that read no text.
    """

    target: Probe
    retained: tuple[Probe, ...]
    texts: Texts | None


@dataclass(frozen=True, eq=False)
class EditReport:
    """The report of an edit.

    Args:
        conditions: model, circuit and settings of the edit, as JSON values.
        removed: names of the removed parts.
        effects: measurements before and after.
        path: path of the search, one point per step; empty without a search.
        settings: settings of the search; None without one.
    """

    conditions: dict[str, Any]
    removed: tuple[str, ...]
    effects: EditEffects
    path: tuple[RemovalStep, ...] = ()
    settings: RemovalSearch | None = None

    @property
    def header(self) -> tuple[str, ...]:
        """Names of the columns of ``rows``."""
        return _TABLE

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """The table before and after."""
        e, wanted = self.effects, self.conditions["command"] == "keep"
        rows = [_row(e.target, "kept" if wanted else "removed"), *(_row(change, "retained") for change in e.retained)]
        if e.side is not None:
            side = e.side
            rows.append(("text", "perplexity", f"{side.perplexity_before:.2f}", f"{side.perplexity:.2f}", ""))
            rows.append(("text", "KL, nats per token", "0", f"{side.kl_text:.4f}", ""))
            rows.append(("unrelated prompts", "KL, nats per token", "0", f"{side.kl_unrelated:.4f}", ""))
        if e.recovery is not None:
            back, whole = e.recovery, e.recovery.untouched
            for name, curve in (("relearning", back.edited), ("after random damage", back.random)):
                measure = f"left after {curve[-1][0]} steps at rate {whole.learning_rate:g}"
                rows.append((name, measure, f"{curve[0][1]:z.1%}", f"{curve[-1][1]:z.1%}", ""))
            step, left = whole.curve[-1]
            wrong = f"left after {step} steps at rate {whole.learning_rate:g} on wrong answers"
            rows.append(("original model", wrong, "100.0%", f"{left:z.1%}", ""))
        return tuple(rows)

    @property
    def target_reached(self) -> bool | None:
        """Whether the remaining share of the capability is at or below the target, on unseen prompts."""
        return None if self.settings is None else self.effects.target.share <= self.settings.target

    @property
    def floor_held(self) -> bool | None:
        """Whether every retained task kept its floor, on unseen prompts."""
        return None if self.settings is None else all(change.share >= self.settings.floor for change in self.effects.retained)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings: targets that were missed, and limits of the measurements, each with a remedy."""
        return () if self.settings is None else (*_missed(self.effects, self.settings), *_unproven(self.effects.recovery))

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        e = self.effects
        judged = {} if self.settings is None else {"target_reached": self.target_reached, "floor_held": self.floor_held}
        return {
            **self.conditions,
            **judged,
            "warnings": list(self.warnings),
            "removed": list(self.removed),
            "target": _change(e.target),
            "retained": [_change(change) for change in e.retained],
            "side_effects": None if e.side is None else asdict(e.side),
            "relearning": None if e.recovery is None else {**asdict(e.recovery), "moved": e.recovery.untouched.moved},
            "settings": None if self.settings is None else asdict(self.settings),
            "path": [asdict(point) for point in self.path],
        }


@entry
def write_removal(
    removal: Removal,
    path: str | Path,
    circuit: Circuit,
    held_out: HeldOut,
    relearning: Relearning | None = None,
    say: Callable[[str], None] = lambda _: None,
    on_round: OnProgress | None = None,
) -> EditReport:
    """Write a model without a capability, read it back, measure what was written, and put the report beside it.

    Args:
        path: a new directory.
        circuit: in which the search was made.
        held_out: what to measure on.
        relearning: whether and how to try to bring the capability back; None does not. Only checkpoints can be fine-tuned.
        say: told what takes long.
        on_round: called as measurements and steps of fine-tuning are done.

    Raises:
        OutputError: the directory is not empty or cannot be written; it is left as it was.
        EditError: the model cannot be written.
    """
    conditions = _conditions("remove", removal.edit, removal.fill, circuit)

    def report(done: EditEffects, edited: Transformer | CutModel) -> EditReport:
        if relearning is None or not relearning.steps:
            return EditReport(conditions, removal.edit.names, done, removal.found.path, removal.settings)
        if isinstance(edited, Transformer) and isinstance(removal.edit, NodeEdit):
            train, gone = removal.target.task, removal.edit.nodes
            done = replace(
                done, recovery=recovery(edited, nodes_of(circuit), gone, train, held_out.target, relearning, say, on_round)
            )
        else:
            say("relearning: not measured, because a model with edges cut cannot be fine-tuned")
        return EditReport(conditions, removal.edit.names, done, removal.found.path, removal.settings)

    return _write(removal.edit, path, held_out, report, say, on_round)


@entry
def write_kept(
    edit: Edit,
    fill: Fill,
    path: str | Path,
    circuit: Circuit,
    held_out: HeldOut,
    say: Callable[[str], None] = lambda _: None,
    on_round: OnProgress | None = None,
) -> EditReport:
    """Write a model of which only a circuit is left, read it back, measure what was written, and put the report beside it.

    Args and errors as in `write_removal`.
    """
    conditions = _conditions("keep", edit, fill, circuit)
    return _write(edit, path, held_out, lambda done, _: EditReport(conditions, edit.names, done), say, on_round)


def _write(
    edit: Edit,
    path: str | Path,
    held_out: HeldOut,
    report: Callable[[EditEffects, Transformer | CutModel], EditReport],
    say: Callable[[str], None],
    on_round: OnProgress | None,
) -> EditReport:
    made: list[EditReport] = []

    def fill(directory: Path) -> None:
        edited = _saved(edit, directory)
        say(f"measuring the edited model on {len(held_out.target.task)} unseen prompts per task, and on text")
        done = effects(edit.base, edited.stream, held_out.target, held_out.retained, held_out.texts, on_round)
        made.append(report(done, edited))
        _fill_report(made[0], directory)

    write_directory(path, fill)
    return made[0]


def _saved(edit: Edit, directory: Path) -> Transformer | CutModel:
    """The edited model as it is read back from the disk."""
    if isinstance(edit, EdgeEdit):
        edit.model.save(directory)
        return load_edited(directory, edit.base)
    write_checkpoint(edit.base, edit.nodes, edit.constants, directory)
    loaded = load_model(directory, device=edit.base.device, dtype=edit.base.dtype, family=edit.base.family)
    return replace(loaded, name=f"{edit.base.name}, edited")


def _fill_report(report: EditReport, directory: Path) -> None:
    content = report.to_json()
    write_json(directory / "edit.json", content)
    write_csv(directory / "edit.csv", _TABLE, report.rows)
    names = [change.task for change in report.effects.retained]
    if report.path:
        steps = (
            (number, " ".join(point.changed), point.back, point.removed, point.target, *point.retained)
            for number, point in enumerate(report.path)
        )
        header = ("step", "parts", "put_back", "removed", report.effects.target.task, *names)
        write_csv(directory / "tradeoff.csv", header, steps)
    save_figure(draw_removal(report.conditions, report.effects, report.path, report.settings), directory, "edit")


def _conditions(command: str, edit: Edit, fill: Fill, circuit: Circuit) -> dict[str, Any]:
    record, base = circuit.record, edit.base
    return {
        "command": command,
        "model": base.name,
        "revision": base.revision,
        "origin": base.origin,
        "config": base.config.digest,
        "dtype": str(base.dtype).removeprefix("torch."),
        "level": "edge" if isinstance(edit, EdgeEdit) else "node",
        "ablation": fill,
        "circuit_edges": circuit.n_edges,
        "circuit_method": None if record is None else record.method.name,
    }


def _change(change: Change) -> dict[str, Any]:
    return {**asdict(change), "left": change.share}


def _missed(effects: EditEffects, settings: RemovalSearch) -> Iterator[str]:
    """Warnings about targets that the edit misses, on unseen prompts."""
    target = effects.target
    if target.share > settings.target:
        yield (
            f"the target is missed: {target.share:z.1%} of {target.task} is left on {target.examples} unseen prompts, more than "
            f"{settings.target:z.1%}. Search on more prompts (--examples) or with a smaller --target."
        )
    if target.share < -max(settings.target, _TURNED):
        yield f"{target.task} is reversed: {target.share:z.1%} of it is left on {target.examples} unseen prompts"
    for change in effects.retained:
        if change.share < settings.floor:
            yield (
                f"retained task {change.task} keeps {change.share:z.1%} on {change.examples} unseen prompts, less than the floor of "
                f"{settings.floor:z.1%}; see tradeoff.csv"
            )


def _unproven(recovery: Relearned | None) -> Iterator[str]:
    """Warnings about limits of the relearning test."""
    if recovery is None:
        return
    whole = recovery.untouched
    if not whole.moved:
        yield (
            f"the relearning test is inconclusive: {whole.curve[-1][0]} steps at learning rate {whole.learning_rate:g} on wrong answers leave the "
            f"original model {whole.curve[-1][1]:z.1%} of the capability. Use a larger --learning-rate or more steps (--relearn)."
        )
    if recovery.random[0][1] > max(recovery.edited[0][1], 0) + _TURNED:
        yield (
            f"the relearning test has no equal control: {recovery.random[0][1]:z.1%} of the capability is left after removing "
            f"{recovery.random_nodes} random nodes, and {recovery.edited[0][1]:z.1%} in the edited model"
        )


def _row(change: Change, role: str) -> tuple[str, ...]:
    measure = change.metric.replace("_", " ")
    return (f"{change.task}, {role}", measure, f"{change.before:z.3f}", f"{change.after:z.3f}", f"{change.share:z.1%}")


def list_of(names: Sequence[str], most: int = 12) -> str:
    """Names with spaces between them, and the number of names left out."""
    rest = len(names) - most
    return " ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")
