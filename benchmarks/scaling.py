"""Seconds and memory against the size of the model: random Llamas of 10 M to 1 B parameters, one JSON line a case.

    python benchmarks/scaling.py                     all cases, each in a process of its own
    python benchmarks/scaling.py 10M-eap 1B-acdc     some of them

Eight pairs of prompts of 16 random tokens that differ from the fourth on, in float32. ``eap`` scores the logit difference;
``acdc`` decides on the KL divergence with a threshold of a hundredth of what cutting every edge costs, so that it cuts most
edges and keeps some on any model. ``gigabytes`` is the most memory of the process during the search, the model included.
Seconds are of processor time, on one thread: other work on the machine does not count.
"""

import json
import subprocess
import sys
from dataclasses import replace
from time import process_time
from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import subcircuit as sc
from subcircuit.engine.memory import peak_memory
from subcircuit.graph import Graph
from subcircuit.model import Tokens
from subcircuit.model.weights import named_tensors
from subcircuit.search import METHODS, Problem
from subcircuit.tasks import Answer, Answers, PromptPair, Task, metric

PROMPTS, LENGTH, SAME = 8, 16, 3
SHARE = 0.01


class Size(NamedTuple):
    """Of a model; heads are 64 wide, and four of them share keys and values."""

    layers: int
    heads: int


SIZES = {"10M": Size(4, 4), "40M": Size(6, 8), "135M": Size(12, 12), "400M": Size(24, 16), "1B": Size(16, 32)}
CASES = [f"{size}-{method}" for size in SIZES for method in ("eap", "acdc")]


def main() -> None:
    """Run the cases that are asked for, each in a fresh process so that peak memory is its own."""
    asked = sys.argv[1:] or CASES
    if len(asked) == 1:
        size, _, method = asked[0].partition("-")
        print(json.dumps({"case": asked[0], **measure(random_llama(SIZES[size]), method)}), flush=True)
        return
    for case in asked:
        subprocess.run([sys.executable, __file__, case], check=True)


def measure(model: sc.Transformer, name: str) -> dict[str, Any]:
    """Search once."""
    count_processor_time()
    graph, task = Graph.of(model.config), random_task(model)
    problem = Problem(model, graph, task, metric("logit_difference"))
    method = METHODS[name]()
    if name == "acdc":
        problem = replace(problem, metric=metric("kl_divergence"))
        method = sc.Acdc(threshold=SHARE * divergence(model, task))
    tensors = {id(tensor): tensor for _, tensor in named_tensors(model.weights)}.values()
    with peak_memory(model.device) as peak:
        found = method.search(problem)
    decided = (
        {} if method.ranks else {"trials": found.trials, "edges_kept": found.circuit.n_edges, "borderline": found.borderline}
    )
    return {
        "parameters": sum(tensor.numel() for tensor in tensors),
        "writers": len(graph.writers),
        "edges": graph.n_edges,
        "seconds": round(found.seconds, 2),
        "forward_seconds": round(found.forward_seconds, 4),
        "forward_equivalents": round(found.forward_equivalents, 1),
        **decided,
        "weights_gigabytes": round(sum(tensor.nbytes for tensor in tensors) / 1e9, 3),
        "gigabytes": round((peak.size or 0) / 1e9, 3),
        "threads": torch.get_num_threads(),
    }


def count_processor_time() -> None:
    """Let the library take its times by the processor's clock and not by the one on the wall."""
    for name, module in list(sys.modules.items()):
        if name.startswith("subcircuit.") and hasattr(module, "perf_counter"):
            vars(module)["perf_counter"] = process_time


def random_llama(size: Size) -> sc.Transformer:
    """A model as training would begin with it."""
    torch.manual_seed(0)
    width, shared = 64 * size.heads, max(1, size.heads // 4)
    config = LlamaConfig(
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=shared,
        hidden_size=width,
        intermediate_size=4 * width,
        vocab_size=32768,
        tie_word_embeddings=True,
    )
    return sc.load_model(LlamaForCausalLM(config), device="cpu")


def random_task(model: sc.Transformer) -> Task:
    """Pairs of random prompts that begin alike."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(model.config.vocab, (2, PROMPTS, LENGTH), generator=generator)
    corrupted[:, :SAME] = clean[:, :SAME]
    lengths = torch.full((PROMPTS,), LENGTH)
    answers = Answers.from_list([Answer(example, LENGTH - 1, (5,), (6,)) for example in range(PROMPTS)])
    pairs = tuple(PromptPair(None, None) for _ in range(PROMPTS))
    return Task("random", {}, pairs, Tokens(clean, lengths), Tokens(corrupted, lengths), answers, "kl_divergence")


@torch.no_grad()
def divergence(model: sc.Transformer, task: Task) -> float:
    """KL between the clean and the corrupted run at the answers: what cutting every edge costs."""
    clean, corrupted = (model(tokens)[:, -1].double().log_softmax(-1) for tokens in (task.clean, task.corrupted))
    return float((clean.exp() * (clean - corrupted)).sum(-1).mean())


if __name__ == "__main__":
    main()
