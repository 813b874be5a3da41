"""The figure of an edit: the remaining share of each task, the path of the search, and relearning of the capability."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from subcircuit.edit import EditEffects, Relearned, RemovalSearch, RemovalStep
from subcircuit.report.style import FAINT, STYLE, line_style
from subcircuit.text import inert

_TARGET, _RETAINED, _RANDOM = "#D55E00", "#0072B2", "#777777"
_LOWEST, _HIGHEST = -1.0, 2.0


def draw_removal(
    conditions: Mapping[str, Any], effects: EditEffects, path: Sequence[RemovalStep], settings: RemovalSearch | None
) -> Figure:
    """Up to three panels: tasks on held-out prompts; the search, step by step; relearning.

    Args:
        conditions: as in ``EditReport``.
        path: empty leaves the second panel out; so does no relearning with the third.
    """
    panels = 1 + bool(path) + (effects.recovery is not None)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 3.3 * panels, 3.4), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(1, panels, squeeze=False)[0])
        _tasks(axes.pop(0), effects, settings)
        if path:
            _search(axes.pop(0), effects, path, settings)
        if effects.recovery is not None:
            _relearning(axes.pop(0), effects.target.task, effects.recovery)
        verb = "kept alone" if conditions["command"] == "keep" else "removed"
        figure.suptitle(
            inert(
                f"{effects.target.task} {verb} · {conditions['model']} · {conditions['level']}s · {conditions['ablation']} ablation"
            ),
            fontsize=9,
        )
    return figure


def _tasks(axes: Axes, effects: EditEffects, settings: RemovalSearch | None) -> None:
    changes = [effects.target, *effects.retained]
    shares = [min(max(change.share, _LOWEST), _HIGHEST) for change in changes]
    colours = [_TARGET, *[_RETAINED] * len(effects.retained)]
    places = list(range(len(changes)))[::-1]
    axes.barh(places, shares, color=colours, height=0.55)
    for place, change, share in zip(places, changes, shares, strict=True):
        axes.annotate(f" {change.share:z.0%}", (max(share, 0), place), va="center")
    axes.set_yticks(places, [inert(change.task) for change in changes])
    axes.axvline(1, color=FAINT, linewidth=0.8, zorder=0)
    if settings is not None:
        axes.axvline(settings.target, color=_TARGET, linewidth=0.8, linestyle=":", zorder=0)
        axes.axvline(settings.floor, color=_RETAINED, linewidth=0.8, linestyle=":", zorder=0)
    axes.set_ylim(-0.6, len(changes) - 0.4)
    axes.set_xlim(min(0.0, *shares) * 1.1, max(1.0, *shares) * 1.18)
    axes.set_title(f"left on {effects.target.examples} other prompts", fontsize=7.5, loc="left")
    axes.set_xlabel(f"{effects.target.metric.replace('_', ' ')}, share of the model's")
    _finish(axes, "x")


def _search(axes: Axes, effects: EditEffects, path: Sequence[RemovalStep], settings: RemovalSearch | None) -> None:
    steps = range(len(path))
    axes.plot(steps, [point.target for point in path], color=_TARGET, marker="o", markersize=3.5, linewidth=1.3)
    _name(axes, float(len(path) - 1), path[-1].target, effects.target.task, _TARGET)
    for index, change in enumerate(effects.retained):
        ys = [point.retained[index] for point in path]
        axes.plot(steps, ys, linewidth=1.1, markersize=3.5, label=inert(change.task), **line_style(index + (index >= 1)))
    if settings is not None:
        axes.axhline(settings.target, color=_TARGET, linewidth=0.8, linestyle=":", zorder=0)
        axes.axhline(settings.floor, color=_RETAINED, linewidth=0.8, linestyle=":", zorder=0)
    if effects.retained:
        axes.legend(frameon=False, loc="center right")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(-0.2, max(1, len(path) - 1) * 1.15)
    axes.set_title(f"the search, {path[-1].removed:,} parts removed", fontsize=7.5, loc="left")
    axes.set(xlabel="step", ylabel="share of the model's")
    _finish(axes, "y")


def _relearning(axes: Axes, task: str, recovery: Relearned) -> None:
    for name, curve, colour in (("edited", recovery.edited, _TARGET), ("damaged at random", recovery.random, _RANDOM)):
        xs, ys = zip(*curve, strict=True)
        label = name if name == "edited" else f"{name}: {recovery.random_nodes} nodes"
        axes.plot(xs, ys, color=colour, marker="o", markersize=3.5, linewidth=1.3, label=label)
    axes.axhline(1, color=FAINT, linewidth=0.8, zorder=0)
    axes.legend(frameon=False, loc="best")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(
        f"fine-tuned on {recovery.examples} prompts, step size {recovery.untouched.learning_rate:g}", fontsize=7.5, loc="left"
    )
    axes.set(xlabel="steps", ylabel=inert(f"{task}, share of the model's"))
    _finish(axes, "y")


def _name(axes: Axes, x: float, y: float, name: str, colour: str) -> None:
    axes.annotate(inert(name), (x, y), xytext=(5, 0), textcoords="offset points", color=colour, va="center")


def _finish(axes: Axes, shares: str) -> None:
    (axes.xaxis if shares == "x" else axes.yaxis).set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.spines[["top", "right"]].set_visible(False)
