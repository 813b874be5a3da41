"""Learning the constants of an optimal ablation (Li & Janson 2024, arXiv 2409.09951).

    constants = argmin over c    E_C [ L(C with c_w on every cut edge out of w) ]

Constants are best for the circuits C that they were learned on. Without a circuit, every step draws one for every
example: a rate uniform on (0, 1), then every edge kept with that chance, so that circuits of all sizes have their part
and all constants learn at once. With a circuit, they are that circuit's own: its loss is then the least that any
constants leave it, the paper's measure of a circuit, and writers without a cut edge keep their mean.
Constants start from the mean. Adam's steps are in units of each writer's size and fall to nothing, for the draws are
noisy. Cost: a masked forward and backward pass a step (``engine/forward.py``). What is found is a local minimum, and with
few prompts it fits them: measure on others.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine import Ablation, Mean, Optimal, last_stream, writer_values
from subcircuit.entry import entry
from subcircuit.errors import GraphError
from subcircuit.graph import Circuit, Graph
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.search.masks import Log, MaskedLoss, check_training, descend, on_edges
from subcircuit.search.problem import Problem, carried
from subcircuit.search.result import OnRound


@dataclass(frozen=True)
class LearnOptimal:
    """Settings of learning constants.

    Args:
        steps: of the optimiser, each over all examples.
        learning_rate: about how far the first step moves a constant, in units of its writer's size.
        batch_size: examples at once; None chooses by memory. The result is the same up to rounding.
        seed: of the draws.
    """

    steps: int = 200
    learning_rate: float = 0.05
    batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_training(self.steps, self.batch_size, learning_rate=self.learning_rate)


@entry
def learn_optimal(
    problem: Problem,
    config: LearnOptimal,
    on_step: OnRound | None = None,
    journal: Journal = FORGETFUL,
    *,
    circuit: Circuit | None = None,
) -> Optimal:
    """Constants that make cut edges cost the least.

    Args:
        problem: prompts and metric; its ablation plays no part.
        config: settings.
        on_step: called after every step.
        journal: remembers where the descent is.
        circuit: whose constants to learn; None learns them for circuits of all kinds.

    Raises:
        GraphError: the circuit is of another graph.
        SettingsError: the metric has no gradients.
        NumericalError: the loss is NaN or infinite.
    """
    graph = problem.graph
    if circuit is not None and circuit.graph != graph:
        raise GraphError(f"a circuit of another graph has other writers; the graphs differ in {circuit.graph.unlike(graph)}")
    start = Start.of(problem)
    loss = MaskedLoss.of(start.problem, config.batch_size, last_stream)
    generator, moves = torch.Generator().manual_seed(config.seed), start.moves()
    optimiser = torch.optim.Adam([moves], config.learning_rate)

    def objective(step: int) -> None:
        optimiser.param_groups[0]["lr"] = config.learning_rate * (1 - step / config.steps)
        kept = _circuits(graph, len(problem.task), generator) if circuit is None else circuit.kept[None]
        loss.backward(kept, start.constants(moves))

    descend([optimiser], generator, config.steps, objective, problem, Log(config, on_step, journal))
    return Optimal(start.constants(moves).detach())


@entry
def ablation_for(
    ablation: str | Ablation | LearnOptimal, problem: Problem, on_step: OnRound | None = None, journal: Journal = FORGETFUL
) -> Ablation:
    """What cut edges carry: the ablation of this name, or constants that are learned now.

    Args:
        ablation: a value, a name that alone tells it, or how to learn constants.
        problem: to learn for; its ablation plays no part.

    Raises:
        UnknownNameError: there is no such ablation.
        SettingsError: "optimal" by name alone.
    """
    match ablation:
        case LearnOptimal():
            return learn_optimal(problem, ablation, on_step, journal)
        case _:
            return carried(ablation)


@dataclass(frozen=True, eq=False)
class Start:
    """Where constants begin to be learned.

    Args:
        problem: with the ablation that the learned constants take the place of.
        mean: of every writer over the corrupted prompts.
        size: of every writer: the unit of its moves.
    """

    problem: Problem
    mean: Float[Tensor, "writer d_model"]
    size: Float[Tensor, " writer"]

    @staticmethod
    @torch.no_grad()
    def of(problem: Problem) -> "Start":
        """From the corrupted prompts of a behaviour; its ablation is not looked at."""
        model, graph = problem.model, problem.graph
        corrupted = problem.task.corrupted
        mean = Mean().values(model, graph, corrupted)[:, 0, 0].float().cpu()
        one = writer_values(model, graph, corrupted[:1])[:, 0].float().cpu()
        # the median: at a prompt's first token some writers are a hundred times their usual size
        size = one.square().mean(-1).sqrt().median(-1).values
        return Start(replace(problem, ablation=Optimal(mean)), mean, size)

    def moves(self) -> Float[Tensor, "writer d_model"]:
        """No moves yet, to be trained."""
        return torch.zeros_like(self.mean, requires_grad=True)

    def constants(self, moves: Float[Tensor, "writer d_model"]) -> Float[Tensor, "writer d_model"]:
        """Where moves lead."""
        return self.mean + self.size[:, None] * moves


def _circuits(graph: Graph, examples: int, generator: torch.Generator) -> Float[Tensor, "batch writer reader"]:
    """A circuit of any size for each example."""
    rates = torch.rand(examples, 1, generator=generator)
    drawn = torch.rand(examples, graph.n_edges, generator=generator)
    return on_edges(graph, (drawn < rates).float())
