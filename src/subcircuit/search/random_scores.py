"""Random scores: the baseline for every method.

Scores are drawn uniformly from [0, 1) by a seed, independent of model and prompts; the n largest are a random circuit
of n edges. A method that does no better has found nothing.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.search.journal import Journal
from subcircuit.search.method import ScoringMethod
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress


@dataclass(frozen=True)
class RandomScores(ScoringMethod):
    """Settings of random scores.

    Args:
        seed: random seed.
    """

    name = "random"
    description = "random scores, the baseline of every other method"
    meaning = "random numbers, nothing is measured"

    seed: int = 0

    def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        """Random scores, drawn on the CPU so that they are the same on every device."""
        return torch.rand(problem.graph.edges.shape, generator=torch.Generator().manual_seed(self.seed))
