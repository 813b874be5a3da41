"""Random problems for random models: prompts of mixed lengths that share a beginning, answers anywhere."""

import random

import torch

from subcircuit.engine import ABLATIONS
from subcircuit.graph import Graph
from subcircuit.model import Tokens, Transformer
from subcircuit.search import Problem
from subcircuit.tasks import Answer, Answers, PromptPair, Task, metric
from tests.tiny_models import VOCAB


def random_task(model: Transformer, seed: int, lengths: list[int], answers_each: int = 1) -> Task:
    """Clean and corrupted prompts of random tokens; their first tokens agree, and often their last.

    Models that are not causal get prompts of one length, the longest of those asked for.
    """
    rng = random.Random(seed)
    lengths = lengths if model.config.causal else [max(lengths)] * len(lengths)
    clean, corrupted, answers = [], [], []
    for example, length in enumerate(lengths):
        prompt = [rng.randrange(2, VOCAB) for _ in range(length)]
        other = list(prompt)
        first = rng.randrange(0, length - 1)
        for pos in range(first, length - rng.randrange(0, 2)):
            other[pos] = (
                (prompt[pos] + rng.randrange(1, VOCAB - 2) - 2) % (VOCAB - 2) + 2 if pos == first else rng.randrange(2, VOCAB)
            )
        clean.append(prompt)
        corrupted.append(other)
        for pos in sorted(rng.sample(range(length), min(answers_each, length))) if answers_each > 1 else [length - 1]:
            right, *wrong = rng.sample(range(VOCAB), 3)
            answers.append(Answer(example, pos, (right,), tuple(wrong[: rng.randrange(1, 3)])))
    return Task(
        name="random",
        parameters={"seed": seed},
        pairs=tuple(PromptPair(None, None) for _ in lengths),
        clean=Tokens.from_lists(clean),
        corrupted=Tokens.from_lists(corrupted),
        answers=Answers.from_list(answers),
        metric="kl_divergence",
    ).to(model.device)


def random_problem(
    model: Transformer, graph: Graph, seed: int, lengths: list[int], answers_each: int, metric_name: str, ablation: str
) -> Problem:
    """A random task with this metric and ablation."""
    return Problem(model, graph, random_task(model, seed, lengths, answers_each), metric(metric_name), ABLATIONS[ablation])


def random_kept(edges: torch.Tensor, seed: int, share: float) -> torch.Tensor:
    """Each edge kept with this probability."""
    generator = torch.Generator().manual_seed(seed)
    return edges & (torch.rand(edges.shape, generator=generator) < share)
