"""Subnetwork probing (Cao, Sanh & Rush 2021, arXiv 2104.03514), on nodes as in Conmy et al. 2023 (arXiv 2304.14997).

    minimise over log α    E_z [ L(every writer w mixed: z_w · value(w) + (1 − z_w) · ablated(w)) ] + price · Σ_w P(z_w > 0)
    score(w → r) = the lesser odds of its two nodes,    odds of w = P(z_w > 0) / P(z_w = 0)

z is drawn from the hard concrete distribution (``masks.py``), once per step for all examples. The price is the value that a
node must have, in units of the metric; it corresponds to ACDC's threshold. Adam finds the minimum. A node above 1 is more likely
kept than not. Nodes are trained and not edges, as in ``hisp``, so edges between kept nodes are hardly distinguished. Cost: a plain
forward and backward pass per step. Which of several redundant nodes stays depends on chance, so seeds differ.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.forward import last_stream_of_nodes
from subcircuit.search.journal import Journal
from subcircuit.search.masks import (
    Log,
    MaskedLoss,
    TrainingMethod,
    check_price,
    check_training,
    descend,
    hard_concrete,
    log_kept,
    odds,
)
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress
from subcircuit.search.result import check_together, scores_of_nodes

# nearly all draws are 1 at first, and every node is sometimes in between, where there are gradients
_START = 2.0


@dataclass(frozen=True)
class SubnetworkProbing(TrainingMethod):
    """Settings of subnetwork probing.

    Args:
        price: price of a kept node, in units of the metric.
        steps: steps of the optimiser, each over all examples.
        learning_rate: approximate change of a log-odds per step.
        batch_size: examples at once; None chooses by memory. The result is the same up to rounding.
        seed: random seed of the draws.
    """

    name = "subnetwork-probing"
    description = "masks on nodes, trained (Cao et al. 2021)"
    meaning = "odds that the less likely of the edge's two nodes is kept"

    price: float = 0.02
    steps: int = 200
    learning_rate: float = 0.1
    batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_price(self.price)
        check_training(self.steps, self.batch_size, learning_rate=self.learning_rate)

    def check(self, problem: Problem) -> None:
        """Raise the errors that ``search`` would raise for this problem."""
        check_together(problem.graph, self.name)
        super().check(problem)

    def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        """The smaller odds of each edge's two nodes, after training."""
        graph = problem.graph
        loss = MaskedLoss.of(problem, self.batch_size, last_stream_of_nodes)
        generator = torch.Generator().manual_seed(self.seed)
        log_odds = torch.full((len(graph.writers),), _START, requires_grad=True)

        def objective(step: int) -> None:
            loss.backward(hard_concrete(log_odds, generator)[None])
            (self.price * log_kept(log_odds).exp().sum()).backward()

        optimiser = torch.optim.Adam([log_odds], self.learning_rate)
        descend([optimiser], generator, self.steps, objective, problem, Log(self, progress, journal))
        return scores_of_nodes(graph, odds(log_kept(log_odds.detach())))
