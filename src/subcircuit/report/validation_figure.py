"""The figures of a validation: ROC curves of one case, and areas by method and case."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from subcircuit.evaluate import Attempt, Recovery, Validation
from subcircuit.report.style import FAINT, STYLE, line_style
from subcircuit.text import inert

NO_GRADIENT = "no gradient"
MARKS = (
    "no gradient: the metric has none where the method takes it   = all edges score alike, which says nothing (AUC 0.5)   "
    "– not run   † parts stand in for each other"
)
# perceived alike by colour-blind readers; below chance is as bad as chance
_COLOURS, _CHANCE = "cividis", 0.5


def draw_roc(validations: Sequence[Validation]) -> Figure:
    """ROC curves of edges and of nodes, one a method, of one case under one ablation; the best circuit is ringed."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.5), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        first = validations[0]
        for axes, part in zip(figure.subplots(1, 2), ("edges", "nodes"), strict=True):
            _curves(axes, part, [(one.method, getattr(one, part)) for one in validations])
        words = f"{first.case} · {first.ablation} ablation · {first.metric} · {first.true_edges} true edges"
        figure.suptitle(inert(words.replace("_", " ")), fontsize=9)
    return figure


def draw_table(attempts: Sequence[Attempt]) -> Figure:
    """Edge AUC as a heat map, methods by cases, one panel for each ablation; cases of which nothing was run are left out."""
    ablations, methods = (list(dict.fromkeys(getattr(one, name) for one in attempts)) for name in ("ablation", "method"))
    cases = list(dict.fromkeys(one.case for one in attempts if isinstance(one, Validation)))
    absent = ", ".join(dict.fromkeys(one.case for one in attempts if one.case not in cases))
    with mpl.rc_context(STYLE):
        size = (2.2 + 0.46 * len(cases), 1.6 + len(ablations) * (0.5 + 0.24 * len(methods)))
        figure = Figure(figsize=size, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(ablations), 1, sharex=True, squeeze=False)[:, 0]
        for axes, ablation in zip(panels, ablations, strict=True):
            found = {(one.method, one.case): one for one in attempts if one.ablation == ablation}
            _heat(axes, found, methods, cases)
            axes.set_title(f"{ablation} ablation", fontsize=8, loc="left")
        colours = ScalarMappable(Normalize(_CHANCE, 1), _COLOURS)
        bar = figure.colorbar(colours, ax=list(panels), fraction=0.02, pad=0.01, extend="min")
        bar.set_label("edge AUC (0.5: chance)")
        figure.supxlabel(inert(MARKS + (f"   not run: {absent}" if absent else "")), fontsize=6.5, color="#555555")
    return figure


def cell(attempt: Attempt) -> str:
    """The text of a table cell about a search."""
    if not isinstance(attempt, Validation):
        return NO_GRADIENT if attempt.no_gradient else "–"
    return "=" if attempt.note else f"{attempt.edges.roc.auc:.2f}"


def _curves(axes: Axes, part: str, found: Sequence[tuple[str, Recovery | None]]) -> None:
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle=":", zorder=0)
    for index, (method, recovery) in enumerate(found):
        if recovery is None:
            axes.text(0.5, 0.4, f"all {part} are true", ha="center")
            break
        style = line_style(index)
        marker = {"markersize": 3.5 if len(recovery.roc.fpr) < 60 else 0.0, "markevery": slice(1, -1)}
        label = f"{method}  {recovery.roc.auc:.3f}"
        # where curves lie on each other the later are thinner, so that all are seen
        width = 1.2 + 2.4 * (1 - (index + 1) / len(found))
        axes.plot(recovery.roc.fpr, recovery.roc.tpr, label=label, linewidth=width, clip_on=False, **style, **marker)
        best = recovery.best[1]
        ring = {"s": 60, "facecolors": "none", "edgecolors": style["color"], "linewidths": 1.0, "clip_on": False, "zorder": 3}
        axes.scatter([best.fpr], [best.recall], **ring)
    else:
        positives, negatives = next((r.positives, r.negatives) for _, r in found if r is not None)
        axes.legend(edgecolor="none", framealpha=0.85, fontsize=7, loc="lower right", title=f"AUC, {part}", title_fontsize=7)
        axes.set_title(f"{positives} true {part} among {positives + negatives:,}", fontsize=8, loc="left")
    label = "false positive rate" + (" (rings: best F1)" if part == "edges" else "")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel=label, ylabel="true positive rate")
    axes.spines[["top", "right"]].set_visible(False)


def _heat(axes: Axes, found: dict[tuple[str, str], Attempt], methods: Sequence[str], cases: Sequence[str]) -> None:
    areas = [[_area(found.get((method, case))) for case in cases] for method in methods]
    axes.imshow(areas, cmap=_COLOURS, vmin=_CHANCE, vmax=1, aspect="auto")
    for row, method in enumerate(methods):
        for column, case in enumerate(cases):
            attempt, area = found.get((method, case)), areas[row][column]
            dark = area < 0.7
            words = "" if attempt is None else cell(attempt).replace(" ", "\n")
            size = 4.5 if "\n" in words else 6
            axes.text(column, row, words, ha="center", va="center", fontsize=size, color="white" if dark else "black")
    redundant = {one.case for one in found.values() if isinstance(one, Validation) and one.redundant}
    axes.set_yticks(range(len(methods)), [inert(method) for method in methods])
    names = [inert(case) + ("†" if case in redundant else "") for case in cases]
    axes.set_xticks(range(len(cases)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _area(attempt: Attempt | None) -> float:
    return attempt.edges.roc.auc if isinstance(attempt, Validation) and not attempt.note else float("nan")
