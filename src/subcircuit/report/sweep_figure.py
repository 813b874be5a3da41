"""The figure of a sweep: faithfulness against edges, one curve a method, and what each method costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from subcircuit.evaluate import Contender
from subcircuit.report.style import FAINT, STYLE, line_style
from subcircuit.text import inert

# beyond these a curve says no more than "far off"
_LOWEST, _HIGHEST = -1.0, 2.0
_ALONE = {"color": "#555555", "marker": "*", "linestyle": "none"}
_PLAIN = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")


def draw_sweep(conditions: Mapping[str, Any], contenders: Sequence[Contender]) -> Figure:
    """Faithfulness on evaluation prompts against the number of edges, with bootstrap intervals; and seconds, as bars.

    Args:
        conditions: as in ``Sweep``.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4.6), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        curves, costs = figure.subplots(1, 2, width_ratios=(2.6, 1))
        styles = {contender.method: line_style(index) for index, contender in enumerate(contenders)}
        styles |= {contender.method: _ALONE for contender in contenders if contender.curve is None}
        _curves(curves, conditions, contenders, styles)
        _costs(costs, contenders, styles)
        title = f"{conditions['task']} · {conditions['model']} · {conditions['metric']} · {conditions['ablation']} ablation"
        pairs = f"found on {conditions['found_on']['pairs']}, judged on {conditions['judged_on']['pairs']} other pairs of prompts"
        figure.suptitle(f"{inert(title)}\n{pairs}", fontsize=9)
    return figure


def _curves(
    axes: Axes, conditions: Mapping[str, Any], contenders: Sequence[Contender], styles: Mapping[str, dict[str, Any]]
) -> None:
    for height, style in ((1.0, "-"), (0.0, ":")):
        axes.axhline(height, color=FAINT, linewidth=0.8, linestyle=style, zorder=0)
    for contender in contenders:
        points = [point for point in contender.points if point.edges]
        xs, ys = [point.edges for point in points], [point.faithfulness for point in points]
        ends = [(point.interval.low, point.interval.high) for point in points if point.interval is not None]
        low, high = zip(*ends, strict=True) if len(ends) == len(points) > 0 else (ys, ys)
        style = styles[contender.method]
        if contender.curve is None:
            # circuits of their own: nothing lies between them
            errors = [[y - end for y, end in zip(ys, low, strict=True)], [end - y for y, end in zip(ys, high, strict=True)]]
            axes.errorbar(xs, ys, errors, label=contender.method, linewidth=0, elinewidth=1, markersize=6, **style)
        else:
            axes.plot(xs, ys, label=contender.method, linewidth=1.3, markersize=3.5, **style)
            axes.fill_between(xs, low, high, color=style["color"], alpha=0.12, linewidth=0)
    values = [p.faithfulness for c in contenders for p in c.points]
    axes.set_ylim(max(_LOWEST, min([0.0, *values])) - 0.08, min(_HIGHEST, max([1.0, *values])) + 0.08)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=f"edges kept, of {conditions['edges']:,} (by {conditions['ranked_by']} score)", ylabel="faithfulness")
    axes.legend(frameon=False, fontsize=7, ncols=2, loc="best")
    axes.spines[["top", "right"]].set_visible(False)


def _costs(axes: Axes, contenders: Sequence[Contender], styles: Mapping[str, dict[str, Any]]) -> None:
    ordered = sorted(contenders, key=lambda contender: -contender.seconds)
    names = [contender.method for contender in ordered]
    # chance costs nothing, which no logarithmic axis shows
    axes.barh(names, [max(c.seconds, 0.01) for c in ordered], color=[styles[name]["color"] for name in names], height=0.62)
    for place, contender in enumerate(ordered):
        axes.annotate(f" {_seconds(contender.seconds)}", (max(contender.seconds, 0.01), place), va="center", fontsize=7)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.margins(x=0.3)
    axes.set(xlabel="seconds")
    axes.spines[["top", "right"]].set_visible(False)


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}" if seconds >= 0.05 else "0"
