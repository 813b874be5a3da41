"""What circuits of each method are worth on prompts that they were not found with, by their number of edges.

    python benchmarks/trust.py smollm2-135m/ioi/refine      one case; its lines in trust.jsonl are replaced
    python benchmarks/trust.py                              all cases, each in a process of its own: hours

32 search, 16 validation and 64 test prompts that share none, logit difference, resample ablation, scope ``qkv``. Faithfulness with its
bootstrap interval, KL, accuracy and top-1 agreement are of the test prompts; ``passes`` is the whole cost of finding the circuit in
plain forward passes over the search prompts, by seconds of the processor, so that a busy machine does not change it much: run with
OMP_NUM_THREADS=1. ``refine`` has a line for each circuit of its path, the first of them its seed: ``acdc``
at a fiftieth of what cutting every edge changes. ``draw_trust.py`` makes the figure and the table.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from time import process_time
from typing import TypeAlias

import torch

import subcircuit as sc
from subcircuit.evaluate.evaluation import measured_on
from subcircuit.search import METHODS, Problem

RESULTS = Path(__file__).with_suffix(".jsonl")
MODELS, TASKS = ("smollm2-135m", "gemma3-270m"), ("ioi", "sva", "greater_than", "capital_of")
RANKINGS = ("eap-ig-inputs", "relp", "hisp", "edge-pruning")
# method, the order of a ranking (by magnitude or by sign), circuit, seconds that it took to find
Found: TypeAlias = tuple[str, str | None, sc.Circuit, float]
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
    before, lines = process_time(), list[str]()
    forward = _forward_seconds(problem)
    for label, by, circuit, seconds in found:
        numbers = measured_on(replace(problem, task=split.test, validation=None), circuit)
        line = {
            "model": name,
            "task": task,
            "method": label,
            "by": by,
            "edges": circuit.n_edges,
            "passes": round(seconds / forward),
        }
        lines.append(json.dumps({**line, **numbers.model_dump(mode="json")}))
        print(lines[-1], flush=True)
    print(f"{process_time() - before:.0f} s of the processor", file=sys.stderr)
    keep(lines)


def keep(lines: list[str]) -> None:
    """Write a case's lines in place of those that were there."""

    def case(line: str) -> tuple[str, str, str]:
        value = json.loads(line)
        # the seed of a refinement comes with it
        return value["model"], value["task"], value["method"] if value["method"] in RANKINGS else ""

    replaced, old = set(map(case, lines)), RESULTS.read_text().splitlines() if RESULTS.exists() else []
    RESULTS.write_text("\n".join(sorted([*(line for line in old if case(line) not in replaced), *lines], key=case)) + "\n")


def _forward_seconds(problem: Problem) -> float:
    """Seconds of the processor for one plain forward pass over the search prompts."""

    def one() -> float:
        began = process_time()
        with torch.no_grad():
            problem.model(problem.task.clean)
        return process_time() - began

    return median([one() for _ in range(4)][1:])


def _refined(problem: Problem) -> Iterator[Found]:
    """The seed, as a circuit of acdc, and the circuits of the path; each with the seconds it took to come there."""
    graph, began, spent = problem.graph, process_time(), list[float]()
    circuits = list[sc.Circuit]()

    def on_step(step: sc.Progress) -> None:
        assert step.circuit is not None
        # the phases after the search for the seed; a circuit is reported again where another phase begins
        if not step.phase.startswith("seed") and circuits[-1:] != [step.circuit()]:
            circuits.append(step.circuit())
            spent.append(process_time() - began)

    found = sc.Refine().search(problem, on_step)
    assert found.path is not None
    for number, (point, seconds) in enumerate(zip(found.path.points, spent, strict=True)):
        circuit = sc.Circuit(graph, point.kept)
        if number == 0:
            yield "acdc", None, circuit, seconds
        yield "refine", None, circuit, seconds
    yield "refine, chosen", None, found.circuit, spent[-1]


def _ranked(problem: Problem, method: str) -> Iterator[Found]:
    """Circuits of rising size by one ranking, of the largest scores either way and of the highest."""
    began = process_time()
    scores = METHODS[method]().search(problem)
    seconds = process_time() - began
    # scores without a sign have one order
    orders = ("absolute", "signed") if bool((scores.scores < 0).any()) else ("absolute",)
    for size, by in product(SIZES, orders):
        circuit = scores.select(sc.TopN(size, by)).prune()
        if circuit.n_edges:
            yield method, by, circuit, seconds


if __name__ == "__main__":
    main()
