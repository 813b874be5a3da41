"""Chance: the baseline that every table carries.

Scores are drawn evenly from [0, 1), by a seed, without looking at model or prompts; the n largest are a random circuit
of n edges. No method that loses to it has found anything.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.search.journal import Journal
from subcircuit.search.method import ScoringMethod
from subcircuit.search.problem import Problem
from subcircuit.search.result import OnRound


@dataclass(frozen=True)
class RandomScores(ScoringMethod):
    """Settings of chance.

    Args:
        seed: other seeds, other scores.
    """

    name = "random"
    description = "chance: what every other method has to beat"
    meaning = "chance, nothing is measured"

    seed: int = 0

    def scores(self, problem: Problem, progress: OnRound | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        """Draws, on the processor, so that every device draws the same."""
        return torch.rand(problem.graph.edges.shape, generator=torch.Generator().manual_seed(self.seed))
