"""The figure of a refinement's path: faithfulness and KL against edges, on the prompts of the search and on those that judge."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from subcircuit.graph import Circuit, Point, RefinePath, Standing, save_path
from subcircuit.report.style import FAINT, STYLE, line_style, save_figure
from subcircuit.text import inert

PATH_NAME = "path"


def write_path(path: RefinePath, circuit: Circuit, directory: Path) -> None:
    """Write ``path.json``, ``path.csv``, ``path.svg`` and ``path.png`` beside the circuit that was chosen from it."""
    save_path(path, directory)
    record = circuit.record
    title = "" if record is None else f"{record.task.name} · {record.model.name} · {record.metric} · {record.ablation} ablation"
    save_figure(draw_path(path, circuit.n_edges, title), directory, PATH_NAME)


def draw_path(path: RefinePath, edges: int, title: str = "") -> Figure:
    """Two panels over the number of edges: faithfulness and KL of every circuit on the path.

    Args:
        edges: of the circuit that was chosen, which is marked.
        title: a line above both.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.0), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        _curves(left, path, edges, lambda standing: standing.faithfulness)
        _curves(right, path, edges, lambda standing: standing.kl)
        left.axhline(1.0, color=FAINT, linewidth=0.8, zorder=0)
        left.set_ylabel("faithfulness (model = 1, every edge cut = 0)")
        right.set_ylabel("KL(model ‖ circuit), nats")
        right.set_ylim(bottom=0)
        figure.suptitle(inert(title), fontsize=9)
    return figure


def _curves(axes: Axes, path: RefinePath, edges: int, value: Callable[[Standing], float]) -> None:
    sides: tuple[tuple[str, Callable[[Point], Standing | None]], ...] = (
        ("search prompts", lambda point: point.search),
        ("validation prompts", lambda point: point.validation),
    )
    for index, (name, side) in enumerate(sides):
        found = [(point.n_edges, value(standing)) for point in path.points if (standing := side(point)) is not None]
        if found:
            xs, ys = zip(*found, strict=True)
            style = line_style(1 - index)
            axes.plot(xs, ys, linewidth=1.2, markersize=3, **style)
            axes.annotate(
                name, (xs[-1], ys[-1]), (-4, 8 - 16 * index), textcoords="offset points", ha="right", color=style["color"]
            )
    axes.axvline(edges, color=FAINT, linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xlabel(f"edges kept (chosen: {edges:,})")
    axes.spines[["top", "right"]].set_visible(False)
