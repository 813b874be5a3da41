"""Draw the figures of docs/trust.md, and print its table.

    python benchmarks/trust.py
    python benchmarks/draw_trust.py

One figure for each model: faithfulness and KL on test prompts against edges, one column of panels per task, one curve per method.
The table has, per model, task and method, the smallest circuit measured with faithfulness 0.9 to 1.1 on the test prompts, with its
bootstrap interval, and what it cost to find. Rankings are drawn by magnitude; the table has their circuits by sign too.
"""

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subcircuit.report.style import FAINT, STYLE, line_style

RESULTS = Path(__file__).parent / "trust.jsonl"
IMAGES = Path(__file__).parent.parent / "docs" / "images"
METHODS = ("refine", "acdc", "eap-ig-inputs", "relp", "hisp", "edge-pruning")
GOAL = 0.9


def panels(lines: list[dict[str, Any]]) -> Figure:
    """Faithfulness above, KL below; one column of panels per task."""
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    figure = Figure(figsize=(1.9 * len(tasks) + 0.9, 4.2), layout="constrained")
    axes = figure.subplots(2, len(tasks), sharex="col", squeeze=False)
    for column, task in enumerate(tasks):
        mine = [line for line in lines if line["task"] == task]
        curves(axes[0][column], mine, "faithfulness")
        curves(axes[1][column], mine, "kl")
        axes[0][column].set_title(task, fontsize=8)
        axes[0][column].axhline(1.0, color=FAINT, linewidth=0.8, zorder=0)
        axes[0][column].set_ylim(-0.1, max(1.2, 1.05 * max(line["faithfulness"] for line in mine if line["by"] != "signed")))
        axes[1][column].set_xlabel("edges kept")
        axes[1][column].set_ylim(0, 1.05 * max(line["kl"] for line in mine))
    axes[0][0].set_ylabel("faithfulness on 64 test prompts")
    axes[1][0].set_ylabel("KL(model ‖ circuit), nats")
    shown = dict(pair[::-1] for panel in axes[0] for pair in zip(*panel.get_legend_handles_labels(), strict=True))
    figure.legend(
        shown.values(), shown.keys(), loc="outside lower center", ncols=2 if len(tasks) == 1 else len(shown), frameon=False
    )
    return figure


def curves(axes: Axes, lines: list[dict[str, Any]], value: str) -> None:
    """One measure against edges, one curve per method."""
    for index, method in enumerate(METHODS):
        points = sorted(
            (line["edges"], line[value])
            for line in lines
            if line["method"] == method and line["by"] != "signed" and line[value] is not None
        )
        if points:
            across, up = zip(*points, strict=True)
            axes.plot(across, up, label=method, linewidth=1.1, markersize=3, **line_style(index))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)


def row(lines: Iterable[dict[str, Any]]) -> str:
    """A row of the table: the smallest circuit that reaches the goal, or else the most faithful one that was measured."""
    found = [line for line in lines if line["faithfulness"] is not None]
    reaching = [line for line in found if abs(1 - line["faithfulness"]) <= 1 - GOAL]
    best = (
        min(reaching, key=lambda line: line["edges"]) if reaching else min(found, key=lambda line: abs(1 - line["faithfulness"]))
    )
    low, high = best["interval"] or (float("nan"), float("nan"))
    edges = f"{best['edges']:,}" if reaching else f"not reached; best {best['edges']:,}"
    numbers = f"{best['faithfulness']:.2f} ({low:.2f} to {high:.2f}) | {best['kl']:.2f} | {best['accuracy']:.2f}"
    by = ", by sign" if best["by"] == "signed" else ""
    return f"| {best['model']} | {best['task']} | `{best['method']}`{by} | {edges} | {numbers} | {best['passes']:,} |"


def main() -> None:
    """Draw one figure per model and print the table."""
    lines = [json.loads(text) for text in RESULTS.read_text().splitlines()]
    lines = [line for line in lines if line["method"] in METHODS]
    lines.sort(key=lambda line: (line["model"], line["task"], METHODS.index(line["method"]), line["by"] or ""))
    print("| model | task | method | edges for faithfulness 0.9 to 1.1 | faithfulness | KL, nats | accuracy | forward passes |")
    print("|---|---|---|---|---|---|---|---|")
    for _, case in groupby(lines, key=lambda line: (line["model"], line["task"], line["method"], line["by"])):
        print(row(case))
    for model, mine in groupby(lines, key=lambda line: line["model"]):
        with mpl.rc_context(STYLE):
            panels(list(mine)).savefig(IMAGES / f"trust-{model}.svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
