"""Exact ACDC: seconds, trials, forward-equivalents, memory and floating-point operations, one JSON line a case.

    python benchmarks/acdc.py                  all cases, each in a process of its own
    python benchmarks/acdc.py smollm2-8-0.02   one case

``forward_equivalents`` is the search's time over the time of one plain forward pass of the same prompts, measured in
the same run: a ratio, because machines are noisy. Operations are torch's own count (matrix products only), from a
second run of the same search, since counting slows it. ``peak_share`` compares operations per second of the search with
those of one large float32 matrix product, measured just before.
"""

import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from time import perf_counter

import torch
from torch.utils.flop_counter import FlopCounterMode

import subcircuit as sc
from subcircuit.model.tokens import Tokens
from subcircuit.tasks import Answer, Answers, PromptPair, Task


@dataclass(frozen=True)
class Case:
    """A search to measure."""

    model: str
    examples: int
    threshold: float

    @property
    def name(self) -> str:
        """What to ask for on the command line."""
        return f"{self.model}-{self.examples}-{self.threshold:g}"


CASES = (
    Case("smollm2", 8, 0.02),
    Case("smollm2", 8, 0.1),
    Case("smollm2", 32, 0.02),
    Case("smollm2", 32, 0.1),
    Case("random-gpt2", 8, 0.0005),
)


def main() -> None:
    """Run one case, or each in a fresh process so that peak memory is its own."""
    if len(sys.argv) > 1:
        (case,) = (case for case in CASES if case.name == sys.argv[1])
        print(json.dumps(measure(case)), flush=True)
        return
    for case in CASES:
        subprocess.run([sys.executable, __file__, case.name], check=True)


def measure(case: Case) -> dict[str, object]:
    """Search twice: once for time and memory, once to count operations."""
    model, task = load(case)
    weights = resident_bytes()
    peak = matmul_flops_per_second()
    settings = sc.Acdc(threshold=case.threshold)
    result = sc.discover(model, task, settings, metric="kl_divergence")
    memory = peak_bytes()
    with FlopCounterMode(display=False) as counter:
        sc.discover(model, task, settings, metric="kl_divergence")
    flops = counter.get_total_flops()
    return {
        "case": case.name,
        "edges_total": result.circuit.graph.n_edges,
        "edges_kept": result.circuit.n_edges,
        "seconds": round(result.seconds, 2),
        "forward_seconds": round(result.forward_seconds, 4),
        "forward_equivalents": round(result.forward_equivalents, 1),
        "trials": result.trials,
        "trials_per_second": round((result.trials or 0) / result.seconds, 1),
        "borderline": result.borderline,
        "kl": round(result.kl_circuit, 4),
        "peak_gigabytes": round(memory / 1e9, 2),
        "gigabytes_over_weights": round((memory - weights) / 1e9, 2),
        "teraflops_total": round(flops / 1e12, 2),
        "peak_share": round(flops / result.seconds / peak, 3),
        "threads": torch.get_num_threads(),
    }


def load(case: Case) -> tuple[sc.Transformer, sc.Task]:
    """The model and its prompts."""
    if case.model == "smollm2":
        model = sc.load_model("smollm2-135m")
        return model, sc.load_task("ioi", model, examples=case.examples)
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = sc.load_model(GPT2LMHeadModel(GPT2Config()))
    return model, random_tokens(model, case.examples)


def random_tokens(model: sc.Transformer, examples: int, length: int = 16) -> sc.Task:
    """Pairs of random prompts that share their first four tokens."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(model.config.vocab, (examples, length), generator=generator)
    corrupted = torch.randint(model.config.vocab, (examples, length), generator=generator)
    corrupted[:, :4] = clean[:, :4]
    lengths = torch.full((examples,), length)
    answers = Answers.from_list([Answer(example, length - 1, (1,), (2,)) for example in range(examples)])
    pairs = tuple(PromptPair(None, None) for _ in range(examples))
    return Task("random", {}, pairs, Tokens(clean, lengths), Tokens(corrupted, lengths), answers, "kl_divergence")


def matmul_flops_per_second(size: int = 4096) -> float:
    """The best of three large float32 matrix products."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(3):
        began = perf_counter()
        _ = a @ b
        best = min(best, perf_counter() - began)
    return 2 * size**3 / best


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes() -> int:
    """Resident size of this process now; its peak where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return peak_bytes()


if __name__ == "__main__":
    main()
