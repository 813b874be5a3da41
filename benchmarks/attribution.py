"""Methods that score edges: seconds, forward-equivalents and peak memory, one JSON line a case.

    python benchmarks/attribution.py                          all cases, each in a process of its own
    python benchmarks/attribution.py eap-8 exact-sample-8     some of them

SmolLM2-135M, indirect object identification, scope ``qkv``: 123,211 edges. ``forward_equivalents`` is the method's time over
the time of one plain forward pass of the same prompts in the same run: a ratio, because machines are noisy. Methods of a
few seconds are run three times and the middle one counts. ``gigabytes_over_weights`` is what the process takes at its peak
beyond what it held with the model loaded.

All effects by ``exact`` take hours, so its cases measure edges drawn at random (``edges_measured``) and scale up:
``forward_equivalents`` is then an estimate for all edges.
"""

import json
import subprocess
import sys
from statistics import median
from time import perf_counter
from typing import Any

import torch
from acdc import peak_bytes, resident_bytes

import subcircuit as sc
from subcircuit.search import METHODS, Problem
from subcircuit.search.attribution import examples_at_once
from subcircuit.search.exact import effects_of
from subcircuit.search.progress import ProgressCounter
from subcircuit.search.result import time_forward

QUICK = [name for name in METHODS if name not in ("acdc", "exact", "hybrid", "subnetwork-probing", "edge-pruning", "ugs")]
CASES = [f"{name}-8" for name in QUICK] + ["eap-32", "subnetwork-probing-8", "edge-pruning-8", "ugs-8", "exact-sample-8"]
SAMPLE, READERS = 800, 100


def main() -> None:
    """Run the cases that are asked for, each in a fresh process so that peak memory is its own."""
    asked = sys.argv[1:] or CASES
    if len(asked) == 1:
        print(json.dumps(measure(asked[0])), flush=True)
        return
    for case in asked:
        subprocess.run([sys.executable, __file__, case], check=True)


def measure(case: str) -> dict[str, Any]:
    """Run one case."""
    name, _, examples = case.rpartition("-")
    model = sc.load_model("smollm2-135m")
    task = sc.load_task("ioi", model, examples=int(examples))
    problem = Problem.of(model, task, "logit_difference")
    time_forward(problem)
    before = resident_bytes()
    if name == "exact-sample":
        cost = sampled_effects(problem)
    else:
        method = METHODS[name]()
        runs = [method.search(problem) for _ in range(3 if name in QUICK else 1)]
        middle = sorted(runs, key=lambda run: run.forward_equivalents)[len(runs) // 2]
        cost = {"seconds": middle.seconds, "forward_seconds": middle.forward_seconds}
    peak = peak_bytes()
    return {
        "case": case,
        **{key: round(value, 4) for key, value in cost.items()},
        "forward_equivalents": round(cost["seconds"] / cost["forward_seconds"], 1),
        "peak_gigabytes": round(peak / 1e9, 2),
        "gigabytes_over_weights": round((peak - before) / 1e9, 2),
        "threads": torch.get_num_threads(),
    }


def sampled_effects(problem: Problem) -> dict[str, float]:
    """Exact effects of edges into readers drawn at random, each reader as often as it has edges; scaled to all edges."""
    graph, generator = problem.graph, torch.Generator().manual_seed(0)
    sizes = graph.edges.sum(0).double()
    chosen = torch.zeros_like(graph.edges)
    for reader in torch.multinomial(sizes, READERS, generator=generator).tolist():
        writers = graph.edges[:, reader].nonzero().flatten()
        first = int(torch.randint(max(1, len(writers) - SAMPLE // READERS), (), generator=generator))
        chosen[writers[first : first + SAMPLE // READERS], reader] = True
    before = time_forward(problem)
    began = perf_counter()
    examples = examples_at_once(problem, None)
    effects_of(problem, chosen, examples, ProgressCounter(int(chosen.sum()), None))
    seconds = perf_counter() - began
    forward = median(before + time_forward(problem))
    measured = int(chosen.sum())
    return {"edges_measured": measured, "seconds": seconds * graph.n_edges / measured, "forward_seconds": forward}


if __name__ == "__main__":
    main()
