"""How figures look, and how they are written."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from subcircuit.io import write_whole

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "subcircuit",
    "text.parse_math": False,
    "text.usetex": False,
    "axes.unicode_minus": False,
    "path.simplify": False,
}

FAINT = "#bbbbbb"

# Okabe & Ito's palette: told apart by colour-blind readers; past its end the line style changes as well
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES, _MARKERS = ("-", "--", ":"), ("o", "s", "^", "D", "v", "P", "X")


def line_style(index: int) -> dict[str, Any]:
    """Colour, line and marker of one of several curves."""
    n = len(_COLOURS)
    return {
        "color": _COLOURS[index % n],
        "linestyle": _LINES[index // n % len(_LINES)],
        "marker": _MARKERS[(index + index // n) % n],
    }


def save_figure(figure: Figure, directory: Path, name: str, dpi: int = 160) -> tuple[Path, Path]:
    """Write ``name.svg`` and ``name.png`` into a directory that exists; equal figures make equal files."""
    svg, png = directory / f"{name}.svg", directory / f"{name}.png"
    with mpl.rc_context(STYLE):
        write_whole(svg, lambda file: figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}))
        write_whole(png, lambda file: figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None}))
    return svg, png
