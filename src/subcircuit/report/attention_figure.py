"""The figure of an explanation: each head's mean attention by token role, one small panel a head."""

from math import ceil

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from subcircuit.errors import SettingsError
from subcircuit.explain import Explanation, HeadEvidence
from subcircuit.report.style import STYLE
from subcircuit.text import inert

MOST_PANELS = 12
_COLUMNS = 4
_COLOURS = "Blues"  # one hue from light to dark: it reads the same for colour-blind readers and in print
_DARK = 0.6


def draw_attention(explanation: Explanation, most: int = MOST_PANELS) -> Figure:
    """Small multiples: rows are the queries' roles, columns the keys', the number is mean attention (0 to 1).

    The role where a head acts is set in bold. Heads are those with the largest effects, in order of data flow.

    Raises:
        SettingsError: the circuit has no heads.
    """
    heads = {name: one for name, one in explanation.components.items() if one.head is not None}
    if not heads:
        raise SettingsError("the circuit has no attention heads, so there is no attention to draw")
    largest = set(sorted(heads, key=lambda name: -abs(heads[name].effect or 0.0))[:most])
    shown = {name: one for name, one in heads.items() if name in largest}
    n_rows, n_columns = ceil(len(shown) / _COLUMNS), min(_COLUMNS, len(shown))
    side = 0.62 + 0.31 * len(explanation.roles)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(4.5, side * n_columns), side * n_rows + 0.7), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(n_rows, n_columns, squeeze=False)
        for panel, (name, one) in zip(panels.flat, shown.items(), strict=False):
            assert one.head is not None
            where = one.strongest_head or name
            _panel(panel, explanation.roles, one.head, f"{where}\n{one.label}", one.acts_at)
        for panel in panels.flat[len(shown) :]:
            panel.set_visible(False)
        told = f"{explanation.task} · {explanation.model} · {explanation.examples} prompts"
        left = f", the {len(shown)} of {len(heads)} heads with the largest effects" if len(shown) < len(heads) else ""
        figure.suptitle(f"{inert(told)}\nmean attention from a role (row) to a role (column){left}", fontsize=8.5)
    return figure


def _panel(axes: Axes, roles: tuple[str, ...], head: HeadEvidence, title: str, acts_at: str | None) -> None:
    queries = [role for role in roles if role in head.attention]
    rows = [[head.attention[query].get(key, 0.0) for key in queries] for query in queries]
    axes.imshow(rows, cmap=_COLOURS, vmin=0, vmax=1, aspect="equal")
    for y, row in enumerate(rows):
        for x, mass in enumerate(row):
            if mass >= 0.05:
                axes.text(
                    x,
                    y,
                    f"{mass:.2f}".lstrip("0"),
                    ha="center",
                    va="center",
                    fontsize=5.5,
                    color="white" if mass > _DARK else "black",
                )
    axes.set_xticks(range(len(queries)), queries, rotation=60, ha="right", rotation_mode="anchor", fontsize=6)
    axes.set_yticks(range(len(queries)), queries, fontsize=6)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == acts_at else "normal")
    axes.tick_params(length=0, pad=2)
    axes.set_title(inert_lines(title), fontsize=7.5)
    for side in axes.spines.values():
        side.set_color("#999999")


def inert_lines(text: str) -> str:
    """Lines with their control characters made visible."""
    return "\n".join(inert(line) for line in text.split("\n"))
