"""Search methods side by side as a table, as files, and as a figure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from subcircuit.evaluate import Contender, Contest, CurvePoint
from subcircuit.io import write_csv, write_json
from subcircuit.report.folder import write_directory
from subcircuit.report.style import save_figure
from subcircuit.report.sweep_figure import draw_sweep
from subcircuit.search import Method

_POINTS = ("method", "percent", "edges", "kept", "faithfulness", "low", "high", "kl")
_METHODS = (
    "method",
    "cpr",
    "cmd",
    "cpr_log",
    "cmd_log",
    "kl_at_1_percent",
    "seconds",
    "forward_equivalents",
    "peak_memory_bytes",
)


@dataclass(frozen=True, eq=False)
class Sweep:
    """What several methods found, and under which conditions.

    Args:
        conditions: model, prompts, metric, ablation and settings, as JSON values.
        contenders: one a method.
    """

    conditions: dict[str, Any]
    contenders: tuple[Contender, ...]

    @staticmethod
    def of(contest: Contest, contenders: Sequence[Contender], methods: Sequence[Method]) -> "Sweep":
        """Put together.

        Args:
            methods: of each contender.
        """
        found_on, judged_on = contest.found_on.task, contest.judged_on.task
        conditions = {
            "model": contest.found_on.model.name,
            "dtype": str(contest.found_on.model.dtype).removeprefix("torch."),
            "task": found_on.name,
            "found_on": {**found_on.parameters, "pairs": len(found_on), "digest": found_on.digest},
            "judged_on": {**judged_on.parameters, "pairs": len(judged_on), "digest": judged_on.digest},
            "metric": contest.found_on.metric.name,
            "ablation": contest.found_on.ablation.name,
            "scope": asdict(contest.found_on.graph.scope),
            "edges": contest.found_on.graph.n_edges,
            "ranked_by": contest.by,
            "thresholds": list(contest.thresholds),
            "settings": {method.name: asdict(method) for method in methods},
        }
        return Sweep(conditions, tuple(contenders))

    @property
    def header(self) -> tuple[str, ...]:
        """Names of the columns of ``rows``."""
        return ("method", "CPR", "CMD", "KL at 1 %", "seconds", "forwards", "peak GB")

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """The table that is printed, the best CMD first; methods without one last."""
        ordered = sorted(self.contenders, key=lambda c: (c.curve is None, 0.0 if c.curve is None else c.curve.cmd))
        return tuple(_row(contender) for contender in ordered)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        methods = [
            {**dict(zip(_METHODS, _numbers(c), strict=True)), "points": [_point(p) for p in c.points], "notes": dict(c.notes)}
            for c in self.contenders
        ]
        return {**self.conditions, "methods": methods}


def write_sweep(sweep: Sweep, path: str | Path) -> Path:
    """``save_sweep`` into a new directory.

    Raises:
        OutputError: the directory is not empty or cannot be written; it is left as it was.
    """
    return write_directory(path, lambda directory: save_sweep(sweep, directory))


def save_sweep(sweep: Sweep, directory: Path) -> None:
    """Write sweep.json, methods.csv, points.csv, sweep.svg and sweep.png."""
    write_json(directory / "sweep.json", sweep.to_json())
    write_csv(directory / "methods.csv", _METHODS, (_numbers(c) for c in sweep.contenders))
    points = ((c.method, *_point(p).values()) for c in sweep.contenders for p in c.points)
    write_csv(directory / "points.csv", _POINTS, points)
    save_figure(draw_sweep(sweep.conditions, sweep.contenders), directory, "sweep")


def _point(point: CurvePoint) -> dict[str, float | int | None]:
    interval = point.interval
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return {
        "percent": point.percent,
        "edges": point.edges,
        "kept": point.kept,
        "faithfulness": point.faithfulness,
        "low": low,
        "high": high,
        "kl": point.kl,
    }


def _numbers(contender: Contender) -> tuple[Any, ...]:
    """In the order of ``_METHODS``."""
    curve = contender.curve
    areas = (None,) * 4 if curve is None else (curve.cpr, curve.cmd, curve.cpr_log, curve.cmd_log)
    cost = (contender.seconds, contender.forward_equivalents, contender.peak_memory)
    return (contender.method, *areas, contender.kl_at(1.0), *cost)


def _row(contender: Contender) -> tuple[str, ...]:
    name, cpr, cmd, _, _, kl, seconds, forwards, memory = _numbers(contender)
    areas = ("" if value is None else f"{value:z.3f}" for value in (cpr, cmd, kl))
    return (name, *areas, f"{seconds:,.1f}", f"{forwards:,.1f}", "" if memory is None else f"{memory / 1e9:.2f}")
