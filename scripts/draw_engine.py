"""Draw the figure of docs/exact-engine.md: how a search by ACDC came to its decisions.

    python scripts/draw_engine.py runs/ioi-smollm2-135m-1

of the circuit that `make demo` finds; without a directory, of one in the model that comes with the package.

What happened to an edge is read off the result. A reader that no kept edge leads on from was never tried: its edges went untested.
One that is reached, none of whose edges was tried by itself, was cut from all its writers at once.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import subcircuit as sc
from subcircuit.report.style import STYLE

IMAGES = Path(__file__).parent.parent / "docs" / "images"
WAYS = ("untested: no path to the logits", "with the whole input, in one trial", "cut one by one", "kept")
COLOURS = ("#c9ced6", "#56b4e9", "#0072b2", "#d55e00")


def ways(circuit: sc.Circuit) -> list[tuple[str, list[int]]]:
    """Of each group of readers, from the logits down, how many of its edges went each way (`WAYS`)."""
    graph, scores = circuit.graph, circuit.scores
    assert scores is not None
    alive = circuit.kept.any(1).tolist()
    groups: dict[str, list[int]] = {}
    for reader in reversed(range(len(graph.readers))):
        name = str(graph.readers[reader])
        owners = graph.writers_of(graph.readers[reader])
        tried = int(scores[:, reader].isfinite().sum())
        kept, edges = int(circuit.kept[:, reader].sum()), int(graph.edges[:, reader].sum())
        reached = not owners or any(alive[owner] for owner in owners)
        went = [0 if reached else edges, edges - tried if reached else 0, tried - kept, kept]
        group = groups.setdefault(_group(name), [0] * len(WAYS))
        groups[_group(name)] = [a + b for a, b in zip(group, went, strict=True)]
    return list(groups.items())


def _group(name: str) -> str:
    """``a1.h3<q>`` belongs to ``a1 queries``."""
    kinds = {"q": "queries", "k": "keys", "v": "values"}
    return f"{name.partition('.')[0]} {kinds[name[-2]]}" if name.endswith(">") else name


def by_layer(groups: Sequence[tuple[str, list[int]]]) -> list[tuple[str, list[int]]]:
    """The same, layer by layer."""
    layers: dict[str, list[int]] = {}
    for name, counts in groups:
        layer = name if name == "logits" else f"layer {re.sub('[^0-9]', '', name.split()[0])}"
        layers[layer] = [a + b for a, b in zip(layers.get(layer, [0] * len(WAYS)), counts, strict=True)]
    return list(layers.items())


def draw_ways(groups: Sequence[tuple[str, list[int]]], axes: Axes) -> None:
    """Bars from the logits down, each as long as its readers have edges."""
    for place, (_, counts) in enumerate(groups):
        left = 0
        for count, colour in zip(counts, COLOURS, strict=True):
            axes.barh(place, count, left=left, color=colour, height=0.72)
            left += count
        if counts[-1]:
            axes.annotate(f"{counts[-1]:,} kept", (left, place), (4, 0), textcoords="offset points", va="center", fontsize=6)
    axes.set_yticks(range(len(groups)), [name for name, _ in groups])
    axes.margins(x=0.09, y=0.01)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()
    axes.set_xlabel("edges")
    axes.set_ylabel("readers, in the order of the search")
    handles = [axes.barh(0, 0, color=colour) for colour in COLOURS]
    axes.legend(handles, WAYS, loc="lower right", frameon=False)


def main(finished: Path | None) -> None:
    """Draw and tell what became of the edges."""
    circuit = sc.Circuit.load(finished) if finished is not None else found_here()
    groups = ways(circuit) if circuit.graph.shape.n_layers < 8 else by_layer(ways(circuit))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        draw_ways(groups, figure.subplots())
        figure.savefig(IMAGES / "engine-ways.svg", metadata={"Date": None, "Creator": None})
    total = [sum(counts[way] for _, counts in groups) for way in range(len(WAYS))]
    print(circuit, *(f"{count:>9,} {way}" for count, way in zip(total, WAYS, strict=True)), sep="\n")


def found_here() -> sc.Circuit:
    """A circuit of the model that comes with the package."""
    model = sc.load_model("tiny-induction-ioi")
    task = sc.load_task("induction", model, examples=8)
    return sc.discover(model, task, sc.Acdc(threshold=0.1), metric="logit_difference").circuit


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
