"""The time left that the demo search tells beside the time that it then takes, one JSON line for each phase.

    python benchmarks/progress.py

SmolLM2-135M, subject-verb agreement, the search of ``make demo``. Seconds are of processor time, on one thread: other work on the
machine does not count. ``worst`` is the largest factor between the time told and the truth, from a tenth of the phase to its last
second; None where no time was told.
"""

import json

from scaling import count_processor_time

import subcircuit as sc
from subcircuit.cli.progress import Pace


def main() -> None:
    """Search, and compare what was told of each phase with how long it took."""
    count_processor_time()
    model = sc.load_model("smollm2-135m")
    split = sc.load_split("sva", model, examples=32)
    pace, told = Pace(), dict[str, list[tuple[float, float | None]]]()

    def note(step: sc.Progress) -> None:
        pace.note(step)
        told.setdefault(step.phase, []).append((step.seconds, pace.left()))

    sc.discover(model, split, sc.Refine(faithfulness=0.9), metric="logit_difference", on_step=note)
    for phase, times in told.items():
        end = times[-1][0]
        shown = [(seconds, left) for seconds, left in times if left is not None and end / 10 <= seconds < end - 1]
        factors = [max(left / (end - seconds), (end - seconds) / left) if left else float("inf") for seconds, left in shown]
        line = {
            "phase": phase,
            "seconds": round(end, 1),
            "told_of": f"{len(shown)} of {len(times)} reports",
            "first_told": round(shown[0][0], 1) if shown else None,
            "worst": round(max(factors), 2) if factors else None,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
