"""What ``estimate`` predicts beside what a search then takes, one JSON line a case.

    python benchmarks/estimates.py                    all cases, each in a process of its own
    python benchmarks/estimates.py eap-8 acdc-8-0.1   some of them

SmolLM2-135M, indirect object identification, scope ``qkv``: the cases of ``acdc.py`` and ``attribution.py``. Seconds are of
processor time, on one thread: other work on the machine does not count.
"""

import json
import subprocess
import sys
from typing import Any

from scaling import count_processor_time

import subcircuit as sc
from subcircuit.engine.memory import peak_memory
from subcircuit.search import METHODS, Problem

CASES = ["eap-8", "eap-ig-inputs-8", "relp-8", "ifr-8", "acdc-8-0.1", "acdc-8-0.02", "acdc-32-0.1"]


def main() -> None:
    """Run the cases that are asked for, each in a fresh process so that peak memory is its own."""
    asked = sys.argv[1:] or CASES
    if len(asked) == 1:
        print(json.dumps({"case": asked[0], **measure(asked[0])}), flush=True)
        return
    for case in asked:
        subprocess.run([sys.executable, __file__, case], check=True)


def measure(case: str) -> dict[str, Any]:
    """Predict, and then search."""
    count_processor_time()
    name, threshold = (case[: case.rindex("-")], float(case.rpartition("-")[2])) if case.startswith("acdc") else (case, None)
    name, _, examples = name.rpartition("-")
    model = sc.load_model("smollm2-135m")
    task = sc.load_task("ioi", model, examples=int(examples))
    problem = Problem.of(model, task, "logit_difference" if threshold is None else "kl_divergence")
    method = METHODS[name]() if threshold is None else sc.Acdc(threshold)
    predicted = sc.estimate(problem, method)
    with peak_memory(model.device) as peak:
        found = method.search(problem)
    return {
        "predicted": {
            "seconds": round(predicted.seconds, 2),
            "trials": predicted.trials,
            "edges_kept": predicted.kept,
            "seen": round(predicted.seen, 2),
            "gigabytes": round(predicted.peak / 1e9, 2),
        },
        "measured": {
            "seconds": round(found.seconds, 2),
            "trials": found.trials,
            "edges_kept": found.circuit.n_edges if threshold is not None else None,
            "gigabytes": round((peak.size or 0) / 1e9, 2),
        },
        "estimate_seconds": round(predicted.cost, 2),
    }


if __name__ == "__main__":
    main()
