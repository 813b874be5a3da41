"""What circuits of each method are worth on prompts that they were not found with, by their number of edges.

    python benchmarks/trust.py smollm2-135m/ioi/refine      one case, a JSON line for each size
    python benchmarks/trust.py                              all cases, each in a process of its own: hours

32 search, 16 validation and 64 test prompts that share none, logit difference, resample ablation, scope ``qkv``. Faithfulness with its
bootstrap interval, KL, accuracy and top-1 agreement are of the test prompts; ``passes`` is the whole cost of finding the circuit in
plain forward passes over the search prompts. ``refine`` has a line for each circuit of its path, the first of them its seed: ``acdc``
at a fiftieth of what cutting every edge changes. ``draw_trust.py`` makes the figure and the table.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter
from typing import Any

import subcircuit as sc
from subcircuit.evaluate.evaluation import measured_on
from subcircuit.search import METHODS, Problem

MODELS, TASKS = ("smollm2-135m", "gemma3-270m"), ("ioi", "sva", "greater_than", "capital_of")
RANKINGS = ("eap-ig-inputs", "relp", "hisp", "edge-pruning")
SIZES = (50, 100, 200, 400, 800, 1600, 3200)
CASES = [f"{model}/{task}/{method}" for model in MODELS for task in TASKS for method in ("refine", *RANKINGS)]


def main() -> None:
    """Run the cases that are asked for, each in a fresh process."""
    asked = sys.argv[1:] or CASES
    if len(asked) > 1:
        for case in asked:
            subprocess.run([sys.executable, __file__, case], check=True)
        return
    name, task, method = asked[0].split("/")
    model = sc.load_model(name)
    split = sc.load_split(task, model, examples=32)
    problem = Problem.of(model, split, "logit_difference")
    found = _refined(problem) if method == "refine" else _ranked(problem, method)
    for label, circuit, passes in found:
        numbers = measured_on(replace(problem, task=split.test, validation=None), circuit)
        line = {"model": name, "task": task, "method": label, "edges": circuit.n_edges, "passes": round(passes)}
        print(json.dumps({**line, **numbers.model_dump(mode="json")}), flush=True)


def _refined(problem: Problem) -> Iterator[tuple[str, sc.Circuit, float]]:
    """The seed, as a circuit of acdc, and the circuits of the path; each with what it took to come there."""
    graph, began, spent = problem.graph, perf_counter(), list[float]()

    def on_step(step: Any) -> None:
        if hasattr(step, "action"):
            spent.append(perf_counter() - began)

    found = sc.Refine().search(problem, on_step)
    assert found.path is not None
    for number, (point, seconds) in enumerate(zip(found.path.points, spent, strict=True)):
        circuit, passes = sc.Circuit(graph, point.kept), seconds / found.forward_seconds
        if number == 0:
            yield "acdc", circuit, passes
        yield "refine", circuit, passes
    yield "refine, chosen", found.circuit, found.forward_equivalents


def _ranked(problem: Problem, method: str) -> Iterator[tuple[str, sc.Circuit, float]]:
    """Circuits of rising size by one ranking."""
    scores = METHODS[method]().search(problem)
    for size in SIZES:
        circuit = scores.select(sc.TopN(size, "absolute")).prune()
        if circuit.n_edges:
            yield method, circuit, scores.forward_equivalents


if __name__ == "__main__":
    main()
