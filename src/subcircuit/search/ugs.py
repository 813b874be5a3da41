"""Uniform gradient sampling (Li & Janson 2024, arXiv 2409.09951).

    minimise over θ    E_C [ L(C) ] + price · Σ p_e,    p_e = σ(θ_e) the chance that edge e is in C
    d E[L] / dp_e = E[L | e kept] − E[L | e cut] = E [ ∂L/∂α_e ]  over α_e uniform on (0, 1)

so that slopes at partly kept edges are unbiased estimates of the value of a whole edge. Every edge of every example is drawn
uniformly with chance w = p (1 − p), else it is kept (chance p − w/2) or cut (1 − p − w/2), all from one uniform u:

    α = min(1, max(0, ½ + (p − u) / w)),        dα/dθ taken as 1 where 0 < α < 1, as E[∂L/∂α · 1(0 < α < 1)] · 1 = w · dE[L]/dp

    score(w → r) = p / (1 − p) = exp θ        the odds that the edge is kept: above 1 it is more likely than not

The price is the value that an edge must have, in units of the metric; it corresponds to ACDC's threshold. With
``learn_constants``, cut edges carry one constant per writer, which starts from the mean and is trained together with θ;
``learn_optimal`` then finds the constants of the selected circuit. Cost: a masked forward and backward pass per step
(``engine/forward.py``), ten to fourteen plain forward passes. Edges that are rarely drawn in between learn slowly.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine import last_stream
from subcircuit.search.journal import Journal
from subcircuit.search.masks import Log, MaskedLoss, TrainingMethod, check_price, check_training, descend, on_edges
from subcircuit.search.optimal import Start
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress

# p = 0.73: most edges are kept at first, and a fifth of them are in between
_START = 1.0


@dataclass(frozen=True)
class Ugs(TrainingMethod):
    """Settings of uniform gradient sampling.

    Args:
        price: price of a kept edge, in units of the metric.
        steps: steps of the optimiser, each over all examples.
        learning_rate: approximate change of a log-odds per step.
        learn_constants: cut edges carry constants that are trained together with the masks, whatever the problem's ablation.
        constant_rate: approximate change of a constant per step, in units of its writer's size.
        batch_size: examples at once; None chooses by memory. The result is the same up to rounding.
        seed: random seed of the draws.
    """

    name = "ugs"
    description = "masks on edges, sampled uniformly (Li & Janson 2024)"
    meaning = "odds that the edge is kept"

    price: float = 0.001
    steps: int = 200
    learning_rate: float = 0.1
    learn_constants: bool = False
    constant_rate: float = 0.02
    batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_price(self.price)
        check_training(self.steps, self.batch_size, learning_rate=self.learning_rate, constant_rate=self.constant_rate)

    def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        """The odds of each edge after training."""
        graph = problem.graph
        start = Start.of(problem) if self.learn_constants else None
        moves = None if start is None else start.moves()
        ablating = problem if start is None else start.problem
        loss = MaskedLoss.of(ablating, self.batch_size, last_stream)
        generator = torch.Generator().manual_seed(self.seed)
        log_odds = torch.full((graph.n_edges,), _START, requires_grad=True)

        def objective(step: int) -> None:
            drawn = uniform_mixture(log_odds, len(problem.task), generator)
            loss.backward(on_edges(graph, drawn), None if start is None or moves is None else start.constants(moves))
            (self.price * log_odds.sigmoid().sum()).backward()

        optimisers = [torch.optim.Adam([log_odds], self.learning_rate)]
        optimisers += [] if moves is None else [torch.optim.Adam([moves], self.constant_rate)]
        descend(optimisers, generator, self.steps, objective, problem, Log(self, progress, journal))
        return on_edges(graph, log_odds.detach().exp())


def uniform_mixture(log_odds: Float[Tensor, " edge"], examples: int, generator: torch.Generator) -> Float[Tensor, "batch edge"]:
    """Masks of every example, with the gradients in log-odds that the module's equation gives."""
    with torch.no_grad():
        p = log_odds.sigmoid().clamp(1e-6, 1 - 1e-6)
        u = torch.rand(examples, len(p), generator=generator)
        alpha = (0.5 + (p - u) / (p * (1 - p))).clamp(0, 1)
        between = ((alpha > 0) & (alpha < 1)).to(alpha.dtype)
    return alpha + between * (log_odds - log_odds.detach())
