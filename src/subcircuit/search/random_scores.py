"""Chance: the baseline that every table carries.

Scores are drawn evenly from [0, 1), by a seed, without looking at model or prompts; the n largest are a random circuit
of n edges. No method that loses to it has found anything.
"""

from dataclasses import dataclass

import torch

from subcircuit.entry import entry
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.search.problem import Problem
from subcircuit.search.result import OnRound
from subcircuit.search.scores import EdgeScores, scored


@dataclass(frozen=True)
class RandomScores:
    """Settings of chance.

    Args:
        seed: other seeds, other scores.
    """

    seed: int = 0


@entry
def random_scores(
    problem: Problem, config: RandomScores, on_step: OnRound | None = None, journal: Journal = FORGETFUL
) -> EdgeScores:
    """Score every edge; the arguments are those of every search, and only ``graph`` and ``config`` matter."""
    graph = problem.graph
    # on the processor, so that every device draws the same
    generator = torch.Generator().manual_seed(config.seed)
    return scored("random", problem, lambda: torch.rand(graph.edges.shape, generator=generator))
