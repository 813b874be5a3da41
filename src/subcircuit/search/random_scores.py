"""Chance: the baseline that every table carries.

Scores are drawn evenly from [0, 1), by a seed, without looking at model or prompts; the n largest are a random circuit
of n edges. No method that loses to it has found anything.
"""

from dataclasses import dataclass

import torch

from subcircuit.entry import entry
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.search.method import Method
from subcircuit.search.problem import Problem
from subcircuit.search.result import OnRound, Result, scored


@dataclass(frozen=True)
class RandomScores(Method):
    """Settings of chance.

    Args:
        seed: other seeds, other scores.
    """

    name = "random"
    description = "chance: what every other method has to beat"
    meaning = "chance, nothing is measured"

    seed: int = 0

    @entry
    def search(self, problem: Problem, progress: OnRound | None = None, journal: Journal = FORGETFUL) -> Result:
        """Score every edge."""
        graph = problem.graph
        # on the processor, so that every device draws the same
        generator = torch.Generator().manual_seed(self.seed)
        return scored(problem, lambda: torch.rand(graph.edges.shape, generator=generator))
