"""What searches recovered of known circuits, as a table, as files, and as figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from subcircuit.evaluate import Attempt, Recovery, Refusal, Validation
from subcircuit.io import write_csv, write_json, write_text
from subcircuit.report.folder import write_directory
from subcircuit.report.style import save_figure
from subcircuit.report.validation_figure import MARKS, NO_GRADIENT, cell, draw_roc, draw_table
from subcircuit.text import inert

_COLUMNS = (
    "case",
    "method",
    "ablation",
    "metric",
    "direction",
    "redundant",
    "true_edges",
    "auc_edges",
    "auc_edges_pessimistic",
    "auc_inputs",
    "auc_inputs_pessimistic",
    "auc_nodes",
    "auc_nodes_pessimistic",
    "average_precision",
    "best_threshold",
    "best_edges",
    "precision",
    "recall",
    "f1",
    "mistakes",
    "missed",
    "wrong",
    "seconds",
    "note",
)
_LISTS = ("missed", "wrong")
_NAMED = 6  # edges that are told by name
_POINTS = ("case", "method", "ablation", "part", "threshold", "found", "right", "positives", "negatives", "fpr", "recall")


@dataclass(frozen=True, eq=False)
class Validations:
    """Searches against known circuits.

    Args:
        attempts: in order; those that were not made among them.
    """

    attempts: tuple[Attempt, ...]

    @property
    def made(self) -> tuple[Validation, ...]:
        """Those that were made."""
        return tuple(attempt for attempt in self.attempts if isinstance(attempt, Validation))

    @property
    def header(self) -> tuple[str, ...]:
        """Names of the columns of ``rows``."""
        return ("method", "edge AUC", "node AUC", "AP", "precision", "recall", "F1", "seconds")

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """One a search: its areas, its average precision, and its best circuit; or that there is no gradient to search by."""
        return tuple(_row(one) for one in self.attempts if isinstance(one, Validation) or one.no_gradient)

    @property
    def summary_header(self) -> tuple[str, ...]:
        """Names of the columns of ``summary``."""
        areas = (f"{part} {ablation}" for ablation in self._ablations for part in ("edges", "nodes"))
        return ("method", *areas, "searches", "seconds")

    @property
    def summary(self) -> tuple[tuple[str, ...], ...]:
        """Per method, mean areas over the cases."""
        methods = dict.fromkeys(one.method for one in self.attempts)
        return tuple(_mean_row([a for a in self.attempts if a.method == method], self._ablations) for method in methods)

    @property
    def _ablations(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(attempt.ablation for attempt in self.attempts))

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values: of one search its numbers, of several ``results``."""
        each = [_numbers(attempt) for attempt in self.attempts]
        return each[0] if len(each) == 1 else {"results": each}

    def to_markdown(self) -> str:
        """Edge AUC by case and method, a table for each ablation, and why what is missing is missing."""
        parts = [_markdown([one for one in self.attempts if one.ablation == ablation]) for ablation in self._ablations]
        return "\n".join([*parts, f"{MARKS}\n", *_reasons(self.attempts)])


def _numbers(attempt: Attempt) -> dict[str, Any]:
    """One search as JSON values; null where it was not made."""
    shared = {name: getattr(attempt, name) for name in ("case", "method", "ablation", "metric", "note")}
    found = _found(attempt) if isinstance(attempt, Validation) else {}
    return {name: {**shared, **found}.get(name) for name in _COLUMNS}


def write_validations(validations: Validations, path: str | Path) -> Path:
    """``save_validations`` into a new directory.

    Raises:
        OutputError: the directory is not empty or cannot be written; it is left as it was.
    """
    return write_directory(path, lambda directory: save_validations(validations, directory))


def save_validations(validations: Validations, directory: Path) -> None:
    """Write validation.json, validation.csv, points.csv, validation.md, and the figure.

    The figure is ``roc`` for one case under one ablation, else ``table``, each as svg and png.
    """
    alone = len({(one.case, one.ablation) for one in validations.attempts}) == 1 and validations.made
    write_json(directory / "validation.json", validations.to_json())
    header = tuple(name for name in _COLUMNS if name not in _LISTS)
    write_csv(directory / "validation.csv", header, [_cells(one) for one in validations.attempts])
    write_csv(directory / "points.csv", _POINTS, [point for one in validations.made for point in _points(one)])
    write_text(directory / "validation.md", validations.to_markdown())
    if alone:
        save_figure(draw_roc(validations.made), directory, "roc")
    else:
        save_figure(draw_table(validations.attempts), directory, "table")


def _found(one: Validation) -> dict[str, Any]:
    threshold, best = one.edges.best
    return {
        "direction": one.direction,
        "redundant": one.redundant,
        "true_edges": one.true_edges,
        **_areas("edges", one.edges),
        **_areas("inputs", one.inputs),
        **_areas("nodes", one.nodes),
        "average_precision": one.edges.average_precision,
        "best_threshold": threshold,
        "best_edges": best.found,
        **{name: getattr(best, name) for name in ("precision", "recall", "f1", "mistakes")},
        "missed": list(one.missed),
        "wrong": list(one.wrong),
        "seconds": one.seconds,
    }


def _cells(attempt: Attempt) -> tuple[Any, ...]:
    """One search as a row; edges by name, of which there may be thousands, are in the JSON alone."""
    return tuple(value for name, value in _numbers(attempt).items() if name not in _LISTS)


def _areas(part: str, recovery: Recovery | None) -> dict[str, float | None]:
    roc = None if recovery is None else recovery.roc
    return {
        f"auc_{part}": None if roc is None else roc.auc,
        f"auc_{part}_pessimistic": None if roc is None else roc.auc_pessimistic,
    }


def _points(one: Validation) -> list[tuple[Any, ...]]:
    parts = [recovery for recovery in (one.edges, one.inputs, one.nodes) if recovery is not None]
    return [
        (one.case, one.method, one.ablation, part.part, threshold, *vars(overlap).values(), overlap.fpr, overlap.recall)
        for part in parts
        for threshold, overlap in zip(part.thresholds, part.overlaps, strict=True)
    ]


def describe(one: Validation) -> tuple[tuple[str, str], ...]:
    """One search as a table of names and values."""
    threshold, best = one.edges.best
    apart = "; those that stand in for each other do not count" if one.redundant else ""
    shares = f"precision {best.precision:.3f}, recall {best.recall:.3f}, F1 {best.f1:.3f}, {best.mistakes:,} mistakes"
    return (
        ("case", f"{one.case} · {one.ablation} ablation · {one.metric}"),
        ("true edges", f"{one.true_edges:,}{apart}"),
        ("method", _method(one) + (f" ({one.note})" if one.note else "")),
        ("edge AUC", _both(one.edges)),
        ("with head inputs", _both(one.inputs)),
        ("node AUC", _both(one.nodes)),
        ("average precision", _three(one.edges.average_precision)),
        ("best circuit by F1", f"{best.found:,} {'edge' if best.found == 1 else 'edges'} at threshold {threshold:.3g}: {shares}"),
        *_against_truth(one),
        ("seconds", f"{one.seconds:,.1f}"),
    )


def _method(one: Validation) -> str:
    return one.method if one.direction in (None, "noising") else f"{one.method}, {one.direction}"


def _against_truth(one: Validation) -> list[tuple[str, str]]:
    """Where the best circuit is not the known one."""
    each = (("missed", one.missed), ("wrong", one.wrong))
    return [(name, ", ".join(edges[:_NAMED]) + _further(len(edges) - _NAMED)) for name, edges in each if edges]


def _further(count: int) -> str:
    return f", and {count:,} more" if count > 0 else ""


def _both(recovery: Recovery | None) -> str:
    if recovery is None:
        return "all are true"
    return f"{recovery.roc.auc:.3f} ({recovery.roc.auc_pessimistic:.3f} pessimistic)"


def _row(one: Attempt) -> tuple[str, ...]:
    if not isinstance(one, Validation):
        return (one.method, NO_GRADIENT, *("–" for _ in range(6)))
    best = one.edges.best[1]
    areas = (one.edges.roc.auc, None if one.nodes is None else one.nodes.roc.auc)
    shares = (*areas, one.edges.average_precision, best.precision, best.recall, best.f1)
    return (_method(one), *(_three(value) for value in shares), f"{one.seconds:,.1f}")


def _mean_row(attempts: Sequence[Attempt], ablations: Sequence[str]) -> tuple[str, ...]:
    made = [one for one in attempts if isinstance(one, Validation)]
    areas = []
    for ablation in ablations:
        here = [one for one in made if one.ablation == ablation]
        nodes = [one.nodes.roc.auc for one in here if one.nodes is not None]
        areas += [mean(one.edges.roc.auc for one in here) if here else None, mean(nodes) if nodes else None]
    searches = f"{len(made)} of {len(attempts)}"
    blind = not made and all(isinstance(one, Refusal) and one.no_gradient for one in attempts)
    return (
        attempts[0].method,
        *(NO_GRADIENT if blind else _three(area) for area in areas),
        searches,
        f"{sum(one.seconds for one in made):,.1f}",
    )


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _markdown(attempts: Sequence[Attempt]) -> str:
    """One ablation: a row a case, a column a method."""
    by_pair = {(one.case, one.method): one for one in attempts}
    methods, cases = (list(dict.fromkeys(getattr(one, name) for one in attempts)) for name in ("method", "case"))
    redundant = {one.case for one in attempts if isinstance(one, Validation) and one.redundant}
    rows = [[case + ("†" if case in redundant else ""), *(cell(by_pair[case, method]) for method in methods)] for case in cases]
    lines = [["case", *methods], ["---"] * (len(methods) + 1), *rows]
    return f"Edge AUC, {attempts[0].ablation} ablation\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _reasons(attempts: Sequence[Attempt]) -> list[str]:
    """Each reason once, with the searches that it holds for."""
    reasons: dict[str, list[Attempt]] = {}
    for one in attempts:
        if not isinstance(one, Validation):
            reasons.setdefault(one.note, []).append(one)
    return [f"- {_named(concerned)}: {inert(reason)}" for reason, concerned in reasons.items()] + [""]


def _named(attempts: Sequence[Attempt]) -> str:
    cases, methods = (dict.fromkeys(getattr(one, name) for one in attempts) for name in ("case", "method"))
    return ", ".join(cases if attempts[0].metric is None else (methods if len(methods) <= len(cases) else cases))
