"""A circuit as one figure: layers bottom to top, kept edges coloured by the type of reader, width and strength by effect."""

import math
from pathlib import Path as FilePath
from textwrap import wrap

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.path import Path

from subcircuit.graph import Circuit, Graph, Node, Reader, Writer, coarsen
from subcircuit.report.layout import BOX_HEIGHT, BOX_WIDTH, Layout
from subcircuit.report.routes import BAR_HEIGHT, arc_reach, route
from subcircuit.report.style import STYLE, save_figure
from subcircuit.report.summary import Summary
from subcircuit.text import inert

# Okabe & Ito's palette: told apart by colour-blind readers
COLOURS = {
    "q": "#0072B2",
    "k": "#E69F00",
    "v": "#009E73",
    "attention": "#0072B2",
    "mlp": "#CC79A7",
    "logits": "#D55E00",
}
_POSITIONS = {"each": "positions", "roles": "token roles"}
_WORDS = {"q": "query", "k": "key", "v": "value", "mlp": "MLP"}
_INK, _FAINT, _ALARM = "#222222", "#c9c9c9", "#b00020"
# of a warning: letters an inch, and inches a line
_LETTERS, _LINE = 17, 0.14


def draw_circuit(circuit: Circuit, *, most: int = 2000) -> Figure:
    """The picture of a circuit.

    Args:
        circuit: its scores, if it has any, set the widths of the edges.
        most: draw only this many edges, the strongest; the caption says so when there are more.

    Returns:
        A matplotlib figure of its own, not known to pyplot.
    """
    with mpl.rc_context(STYLE):
        whole = circuit if circuit.graph == circuit.graph.drawn else coarsen(circuit, circuit.graph.drawn)
        layout = Layout(whole)
        edges = _strongest(whole, most)
        figure, axes = _canvas(layout, edges, Summary.of(circuit).warnings)
        axes.scatter(
            [x for x, _ in layout.unlabelled], [y for _, y in layout.unlabelled], s=3, color=_FAINT, linewidths=0, zorder=1
        )
        _draw_edges(axes, layout, edges)
        _draw_nodes(axes, layout)
        _draw_words(figure, axes, circuit, whole.n_edges, len(edges))
        return figure


def _parts(graph: Graph) -> str | None:
    """What MLPs are resolved into; None where each is one node."""
    levels = {unit.level for unit, drawn in zip(graph.units, graph.drawn.units, strict=True) if unit != drawn}
    return " and ".join(f"{level}s" for level in sorted(levels, reverse=True)) or None


def save_picture(circuit: Circuit, directory: str | FilePath) -> tuple[FilePath, FilePath]:
    """Write ``circuit.svg`` and ``circuit.png`` into a directory that exists; equal circuits make equal files."""
    return save_figure(draw_circuit(circuit), FilePath(directory), "circuit", dpi=200)


def _strongest(circuit: Circuit, most: int) -> list[tuple[Writer, Reader, float]]:
    """Kept edges with their strength in 0–1, weak ones first so that strong ones are drawn over them."""
    graph, edges = circuit.graph, []
    scores = None if circuit.scores is None else circuit.scores.abs().nan_to_num(nan=0.0, posinf=0.0)
    largest = 0.0 if scores is None or not circuit.n_edges else float(scores[circuit.kept].max())
    for edge in circuit.edges:
        effect = 0.0 if scores is None else float(scores[graph.writer_index[edge.writer], graph.reader_index[edge.reader]])
        edges.append((edge.writer, edge.reader, math.sqrt(effect / largest) if largest > 0 else 0.35))
    return sorted(edges, key=lambda edge: edge[2])[-most:] if edges else []


def _canvas(layout: Layout, edges: list[tuple[Writer, Reader, float]], warnings: tuple[str, ...]) -> tuple[Figure, Axes]:
    """A figure just large enough, whose one axes measures in inches; warnings stand under its title and legend."""
    arcs = [arc_reach(layout, w, n) for w, n in ((w, layout.graph.nodes_of(r)[0]) for w, r, _ in edges) if _on_the_right(w, n)]
    right = layout.mlp_column + BOX_WIDTH / 2 + max(arcs, default=0.0) + 0.2
    width = max(right, 5.6)
    lines = [line for warning in warnings for line in wrap(inert(f"warning: {warning}"), int(_LETTERS * width))]
    bottom, top = layout.bottom - 0.62, layout.top + 0.75 + _LINE * len(lines)
    figure = Figure(figsize=(width, top - bottom), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=((right - width) / 2, (right + width) / 2), ylim=(bottom, top))
    axes.axis("off")
    for number, line in enumerate(lines):
        axes.text(right / 2, top - 0.6 - _LINE * number, line, ha="center", va="center", fontsize=7, color=_ALARM)
    return figure, axes


def _on_the_right(writer: Writer, node: Node) -> bool:
    return "attention" not in (writer.kind, node.kind)


def _draw_edges(axes: Axes, layout: Layout, edges: list[tuple[Writer, Reader, float]]) -> None:
    curves: list[Path] = []
    widths: list[float] = []
    colours: list[tuple[float, float, float, float]] = []
    for writer, reader, strength in edges:
        for node in layout.graph.nodes_of(reader):
            curves.append(route(layout, writer, reader, node))
            widths.append(0.6 + 2.6 * strength)
            colours.append(to_rgba(COLOURS[reader.kind], 0.4 + 0.55 * strength))
    axes.add_collection(
        PathCollection(curves, facecolors="none", edgecolors=colours, linewidths=widths, capstyle="round", zorder=2),
        autolim=False,
    )


def _draw_nodes(axes: Axes, layout: Layout) -> None:
    for node in sorted(layout.labelled, key=lambda n: (layout.place(n)[1], layout.place(n)[0])):
        _box(axes, str(node), layout.place(node), BOX_WIDTH, BOX_HEIGHT)
    left, right = layout.bar
    for node in (*layout.graph.units[-1].readers, *layout.graph.embeddings):
        _box(axes, str(node), layout.place(node), right - left, BAR_HEIGHT)
    for layer, y in layout.layers:
        axes.text(left - 0.12, y, f"layer {layer}", color="#777777", fontsize=6, ha="right", va="center")


def _box(axes: Axes, label: str, middle: tuple[float, float], width: float, height: float) -> None:
    x, y = middle
    style = f"round,pad=0,rounding_size={height * 0.35}"
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle=style,
            facecolor="white",
            edgecolor=_INK,
            linewidth=0.6,
            zorder=4,
        )
    )
    axes.text(x, y - 0.005, label, ha="center", va="center_baseline", fontsize=6.5, color=_INK, zorder=5)


def _draw_words(figure: Figure, axes: Axes, circuit: Circuit, n_edges: int, drawn: int) -> None:
    summary = Summary.of(circuit)
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    middle = (left + right) / 2
    axes.text(middle, top - 0.16, inert(summary.title), ha="center", va="center", fontsize=8.5, color=_INK)
    caption = summary.caption
    if (parts := _parts(circuit.graph)) is not None:
        caption = f"{parts} are drawn as their MLPs · {caption}".removesuffix(" · ")
    together = f"all {_POSITIONS[circuit.graph.scope.positions]} are drawn together" if circuit.graph.shape.positions else None
    above = " · ".join(filter(None, (together, summary.scores and f"width: {summary.scores}")))
    if above:
        axes.text(middle, bottom + 0.27, above, ha="center", va="center", fontsize=6, color="#555555")
    if drawn < n_edges:
        caption = f"the {drawn:,} strongest of {n_edges:,} edges are drawn · {caption}".removesuffix(" · ")
    axes.text(middle, bottom + 0.14, inert(caption), ha="center", va="center", fontsize=6, color="#555555")
    _draw_legend(axes, circuit, middle, top - 0.42)


def _draw_legend(axes: Axes, circuit: Circuit, middle: float, y: float) -> None:
    """One line under the title: each colour's name, in its colour."""
    present = {reader.kind for reader in circuit.graph.readers}
    coloured = {_WORDS.get(kind, kind): colour for kind, colour in COLOURS.items() if kind in present}
    words = ["edges into", *coloured] + (["width: effect"] if circuit.scores is not None else [])
    step = 0.78
    x = middle - step * (len(words) - 1) / 2
    for index, word in enumerate(words):
        colour = coloured.get(word, "#555555")
        if word in coloured:
            axes.plot(
                [x + index * step - 0.33, x + index * step - 0.13], [y, y], color=colour, linewidth=2.2, solid_capstyle="round"
            )
        axes.text(
            x + index * step - (0.08 if word in coloured else 0.3),
            y - 0.005,
            word,
            ha="left",
            va="center_baseline",
            fontsize=6.5,
            color=colour,
        )
