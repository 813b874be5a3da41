"""Draw the figure of docs/scaling.md, and predict what larger models take.

    python benchmarks/scaling.py > scaling.jsonl
    python benchmarks/draw_scaling.py scaling.jsonl

Predictions are of memory from shapes, as ``subcircuit estimate`` adds it up, and of the time of forward passes from a machine's
speed. Models are made without their weights.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scaling import LENGTH, PROMPTS, random_task
from transformers import LlamaConfig, LlamaForCausalLM

import subcircuit as sc
from subcircuit.graph import Graph
from subcircuit.report.style import STYLE, line_style
from subcircuit.search import Acdc, Eap, Problem
from subcircuit.search.memory import Footprint
from subcircuit.tasks import metric

ROOT = Path(__file__).parent.parent


class Large(NamedTuple):
    """The shape of a Llama."""

    name: str
    layers: int
    heads: int
    width: int
    mlp: int
    tied: bool


LARGE = (
    Large("1B (Llama 3.2)", 16, 32, 2048, 8192, True),
    Large("8B (Llama 3.1)", 32, 32, 4096, 14336, False),
    Large("70B (Llama 3.1)", 80, 64, 8192, 28672, False),
)
# assumed of one accelerator: operations and bytes a second that are reached in bfloat16, seconds to start a kernel
OPERATIONS, BANDWIDTH, START = 300e12, 2.5e12, 1e-5
# assumed of the searches, as measured here at the least and at the most: trials for each writer, forward passes for each trial
TRIALS, PASSES = (12, 39), (0.013, 0.024)
# assumed: trials in a batch, kernels that a layer starts for each, and how many forward passes ``eap`` takes
TOGETHER, KERNELS, EAP = 8, 60, 6


def draw(cases: list[dict[str, Any]], figure: Figure) -> None:
    """Seconds and memory against parameters."""
    left, right = figure.subplots(1, 2)
    for index, method in enumerate(("acdc", "eap")):
        mine = [case for case in cases if case["case"].endswith(method)]
        _curve(left, mine, "seconds", method, index)
        _curve(right, mine, "gigabytes", method, index)
    _curve(right, list({case["parameters"]: case for case in cases}.values()), "weights_gigabytes", "weights", 2)
    left.set_ylabel("seconds of processor time, one thread")
    right.set_ylabel("peak memory of the process, GB")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="parameters")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12)
        # the style does not read mathematics, in which powers of ten would be written
        axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:,.0f} M")
        axes.yaxis.set_major_formatter("{x:g}")


def _curve(axes: Axes, cases: list[dict[str, Any]], of: str, label: str, index: int) -> None:
    across, up = ([case[key] for case in cases] for key in ("parameters", of))
    axes.plot(across, up, markersize=3, linewidth=1, **line_style(index))
    axes.annotate(label, (across[-1], up[-1]), (5, 0), textcoords="offset points", va="center", annotation_clip=False)


def measured(case: dict[str, Any]) -> list[str]:
    """A row of the table of what was measured."""
    tried = [f"{case[key]:,}" if key in case else "" for key in ("trials", "edges_kept")]
    cost = [f"{case['seconds']:,.1f}", f"{case['forward_equivalents']:.0f}"]
    memory = [f"{case['weights_gigabytes']:.2f}", f"{case['gigabytes']:.2f}"]
    size = [f"{case['parameters'] / 1e6:,.0f} M", f"{case['edges']:,}", f"`{case['case'].partition('-')[2]}`"]
    return [*size, *tried, *cost, *memory]


def predictions(shape: Large) -> list[str]:
    """Rows of the table: parts of memory, and seconds, for both methods."""
    model = without_weights(shape)
    task, graph = random_task(model), Graph.of(model.config)
    problem = Problem(model, graph, task, metric("logit_difference"))
    weights = Eap().memory(problem).model
    numbers = weights / 2
    forward = max(2 * numbers * PROMPTS * LENGTH / OPERATIONS, weights / BANDWIDTH)
    rows = []
    for name, settings in (("eap", Eap()), ("acdc", Acdc())):
        parts = settings.memory(problem)
        if name == "eap":
            cells = ["", f"{EAP}", f"{EAP * max(forward, shape.layers * KERNELS * START):.1f} s"]
        else:
            trials = [each * len(graph.writers) for each in TRIALS]
            passes = [each * number for each, number in zip(PASSES, trials, strict=True)]
            # half of the layers lie downstream of a reader
            starts = [number / TOGETHER * shape.layers / 2 * KERNELS * START for number in trials]
            seconds = [start + number * forward for start, number in zip(starts, passes, strict=True)]
            cells = [_range(trials), _range(passes), f"{_range(seconds)} s"]
        rows.append(f"| {shape.name} | {graph.n_edges:,} | `{name}` | {_parts(parts)} | {' | '.join(cells)} |")
    return rows


def _range(ends: Sequence[float]) -> str:
    low, high = (float(f"{end:.1g}" if end >= 1000 else f"{end:.2g}") for end in ends)
    return f"{low:,.0f} to {high:,.0f}"


def _parts(parts: Footprint) -> str:
    return f"{parts.model / 1e9:.1f} + {parts.runs / 1e9:.1f} + {parts.work / 1e9:.1f} = {parts.total / 1e9:.0f} GB"


def without_weights(shape: Large) -> sc.Transformer:
    """A model of which there is everything but numbers."""
    config = LlamaConfig(
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=8,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        vocab_size=128256,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        empty = LlamaForCausalLM(config)
    model = sc.load_model(empty, device="meta", dtype="bfloat16")
    return replace(model, weights=replace(model.weights, W_U=model.weights.W_E)) if shape.tied else model


def main(file: Path) -> None:
    """Draw what was measured, and print it and the predictions as tables."""
    cases = [json.loads(line) for line in file.read_text().splitlines()]
    cases.sort(key=lambda case: case["parameters"])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        draw(cases, figure)
        figure.savefig(ROOT / "docs" / "images" / "scaling.svg", metadata={"Date": None, "Creator": None})
    for case in cases:
        print("|", " | ".join(measured(case)), "|")
    for shape in LARGE:
        print(*predictions(shape), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
