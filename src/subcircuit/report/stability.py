"""The files of a stability selection: the consensus circuit, how often each edge is kept, and the figure of that."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from subcircuit.evaluate import StabilitySelection
from subcircuit.graph import Circuit
from subcircuit.io import write_csv
from subcircuit.report.picture import save_picture
from subcircuit.report.style import FAINT, STYLE, line_style, save_figure


def save_stability(made: StabilitySelection, circuit: Circuit, directory: Path) -> None:
    """Write the consensus circuit with its pictures, ``stability.csv``, ``stability.svg`` and ``stability.png``."""
    circuit.save(directory)
    save_picture(circuit, directory)
    write_csv(directory / "stability.csv", ("edge", "share of runs", "in the consensus circuit"), _rows(made, circuit))
    save_figure(draw_stability(made), directory, "stability")


def _rows(made: StabilitySelection, circuit: Circuit) -> list[tuple[str, float, bool]]:
    """The edges that a run keeps, the most frequent first; edges of the same share in the order of the graph."""
    frequency = made.agreement.frequency
    cells = (frequency > 0).T.nonzero().tolist()
    graph = circuit.graph
    rows = [(str(graph.edge(w, r)), float(frequency[w, r]), bool(circuit.kept[w, r])) for r, w in cells]
    return sorted(rows, key=lambda row: -row[1])


def draw_stability(made: StabilitySelection) -> Figure:
    """The share of the runs that keep each edge, edges in falling order, with the share that the consensus asks for."""
    shares = sorted((share for share in made.agreement.frequency.flatten().tolist() if share > 0), reverse=True)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.0), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        if shares:
            axes.step(range(1, len(shares) + 1), shares, where="mid", linewidth=1.4, color=line_style(0)["color"])
        axes.axhline(made.consensus, color=FAINT, linewidth=0.8, linestyle="--", zorder=0)
        axes.annotate(
            f"consensus: {made.consensus:.0%} of the runs",
            (1, made.consensus),
            (-2, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            fontsize=7,
        )
        axes.set_ylim(0, 1.05)
        axes.set_xlabel("edges, the most frequent first")
        axes.set_ylabel(f"share of {len(made.circuits)} runs that keep the edge")
        axes.spines[["top", "right"]].set_visible(False)
    return figure
