"""Edge pruning (Bhaskar, Wettig, Friedman & Chen 2024, arXiv 2406.16778).

    kept[w, r] = z_{w→r} · z_w,    all z drawn from the hard concrete distribution (``masks.py``), once a step
    s = 1 − mean over edges of P(z_{w→r} > 0) · P(z_w > 0)                                     expected sparsity
    min over log α, max over λ    E_z [ L(kept) ] + λ₁ (t − s) + λ₂ (t − s)²
    score(w → r) = p / (1 − p),    p = P(z_{w→r} > 0) · P(z_w > 0)                       the odds that the edge is kept

The target t rises from 0 to ``target`` over the first part of the steps and then stays. Scores are odds because chances
would round to ties at 1; edges above 1 are more likely kept than not. Here one target covers edges and writers together; the
published program has a second one for the share of writers. Masks are trained for this sparsity, so set ``target`` to the
size of circuit that you will select. Cost: a masked forward and backward pass per step (``engine/forward.py``), ten to
fourteen plain forward passes, whatever the number of edges. Scores far from the target's cut are unreliable: once a mask
is closed for good, only the pressure that closed it ranks it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine import last_stream
from subcircuit.errors import SettingsError
from subcircuit.search.journal import Journal
from subcircuit.search.masks import (
    Log,
    MaskedLoss,
    TrainingMethod,
    check_training,
    descend,
    hard_concrete,
    log_kept,
    odds,
    on_edges,
)
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress

# nearly all draws are 1 at first: the search starts near the whole model
_START = 3.0


@dataclass(frozen=True)
class EdgePruning(TrainingMethod):
    """Settings of edge pruning.

    Args:
        target: share of edges to cut.
        steps: steps of the optimiser, each over all examples.
        warm_up: share of the steps over which the target rises.
        learning_rate: approximate change of a log-odds per step.
        multiplier_rate: approximate change of a Lagrange multiplier per step, in units of the metric.
        batch_size: examples at once; None chooses by memory. The result is the same up to rounding.
        seed: random seed of the draws.
    """

    name = "edge-pruning"
    description = "masks on edges and nodes, trained (Bhaskar et al. 2024)"
    meaning = "odds that the edge is kept"

    target: float = 0.95
    steps: int = 200
    warm_up: float = 0.5
    learning_rate: float = 0.1
    multiplier_rate: float = 1.0
    batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise SettingsError(f"target is {self.target}: it is the share of edges to cut, between 0 and 1, for example 0.95")
        if not 0 <= self.warm_up <= 1:
            raise SettingsError(f"warm_up is {self.warm_up}: it is a share of the steps, from 0 to 1, for example 0.5")
        check_training(self.steps, self.batch_size, learning_rate=self.learning_rate, multiplier_rate=self.multiplier_rate)

    def target_at(self, step: int) -> float:
        """The target sparsity at a step."""
        rising = self.warm_up * self.steps
        return self.target * min(1.0, (step + 1) / rising) if rising else self.target

    def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        """The odds of each edge after training."""
        graph = problem.graph
        loss = MaskedLoss.of(problem, self.batch_size, last_stream)
        generator = torch.Generator().manual_seed(self.seed)
        edges, writers = (torch.full((n,), _START, requires_grad=True) for n in (graph.n_edges, len(graph.writers)))
        multipliers, writer_of = torch.zeros(2, requires_grad=True), graph.edges.nonzero()[:, 0]

        def objective(step: int) -> None:
            drawn = hard_concrete(edges, generator) * hard_concrete(writers, generator)[writer_of]
            loss.backward(on_edges(graph, drawn)[None])
            sparsity = 1 - _log_chance(edges, writers[writer_of]).exp().mean()
            missing = self.target_at(step) - sparsity
            (multipliers[0] * missing + multipliers[1] * missing.square()).backward()

        masks = torch.optim.Adam([edges, writers], self.learning_rate)
        lagrangian = torch.optim.Adam([multipliers], self.multiplier_rate, maximize=True)
        descend([masks, lagrangian], generator, self.steps, objective, problem, Log(self, progress, journal))
        return on_edges(graph, odds(_log_chance(edges, writers[writer_of]).detach()))


def _log_chance(edges: Float[Tensor, " edge"], writers: Float[Tensor, " edge"]) -> Float[Tensor, " edge"]:
    """The log of the chance that an edge is kept, from the log-odds of its two masks."""
    return log_kept(edges) + log_kept(writers)
