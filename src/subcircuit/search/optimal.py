"""Learning the constants of an optimal ablation (Li & Janson 2024, arXiv 2409.09951).

    constants = argmin over c    E_C [ L(C with c_w on every cut edge out of w) ]

Constants are best for the circuits C that they were learned on. Without a given circuit, every step draws one per example: a
rate uniform on (0, 1), then every edge kept with that probability. Circuits of all sizes are thus included, and all constants
are learned at once. With a given circuit, the constants are that circuit's own: its loss is then the smallest that any
constants achieve, the paper's measure of a circuit, and writers without a cut edge keep their mean.
Constants start from the mean. Adam's steps are in units of each writer's size and decay to zero, because the draws are
noisy. Cost: a masked forward and backward pass per step (``engine/forward.py``). The result is a local minimum, and with few
prompts it overfits them: measure on others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine import OPTIMAL, Ablation, Mean, Optimal, check_ablation, last_stream, writer_values
from subcircuit.entry import entry
from subcircuit.errors import GraphError, SettingsError
from subcircuit.graph import Circuit, Graph
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.search.masks import Log, MaskedLoss, check_training, descend, on_edges
from subcircuit.search.problem import Problem, carried
from subcircuit.search.progress import OnProgress
from subcircuit.search.settings import settings_of


@dataclass(frozen=True)
class LearnOptimal:
    """Settings of learning constants.

    Args:
        steps: steps of the optimiser, each over all examples.
        learning_rate: approximate change of a constant in the first step, in units of its writer's size.
        batch_size: examples at once; None chooses by memory. The result is the same up to rounding.
        seed: random seed of the draws.
    """

    steps: int = 200
    learning_rate: float = 0.05
    batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_training(self.steps, self.batch_size, learning_rate=self.learning_rate)


def ablation_with(name: str, settings: Mapping[str, Any], seed: int | None = None) -> str | LearnOptimal:
    """The name of an ablation; for "optimal", the settings for learning its constants.

    Args:
        settings: settings for learning, by name.
        seed: random seed for learning, unless ``settings`` has one.

    Raises:
        UnknownNameError: no ablation, or no setting, has this name.
        SettingsError: settings for an ablation that has none.
    """
    check_ablation(name)
    if name == OPTIMAL:
        return settings_of("ablation optimal", LearnOptimal, settings, seed)
    if settings:
        raise SettingsError(f"--set optimal.{next(iter(settings))}: goes with --ablation optimal, not with {name}")
    return name


@entry
def learn_optimal(
    problem: Problem,
    config: LearnOptimal,
    on_step: OnProgress | None = None,
    journal: Journal = FORGETFUL,
    *,
    circuit: Circuit | None = None,
) -> Optimal:
    """Constants that minimise the loss with cut edges.

    Args:
        problem: prompts and metric; its ablation is ignored.
        config: settings.
        on_step: called after every step.
        journal: stores checkpoints of the training.
        circuit: the circuit to learn constants for; None learns them for circuits of all sizes.

    Raises:
        GraphError: the circuit belongs to another graph.
        SettingsError: the metric has no gradients.
        NumericalError: the loss is NaN or infinite.
    """
    graph = problem.graph
    if circuit is not None and circuit.graph != graph:
        raise GraphError(f"the constants of a circuit fit only its own graph; the graphs differ in {circuit.graph.unlike(graph)}")
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
    ablation: str | Ablation | LearnOptimal, problem: Problem, on_step: OnProgress | None = None, journal: Journal = FORGETFUL
) -> Ablation:
    """The ablation of this name, or an optimal ablation whose constants are learned now.

    Args:
        ablation: a value, a name that suffices, or settings for learning constants.
        problem: the problem to learn for; its ablation is ignored.

    Raises:
        UnknownNameError: no ablation has this name.
        SettingsError: the name is "optimal", whose constants must be learned.
    """
    match ablation:
        case LearnOptimal():
            return learn_optimal(problem, ablation, on_step, journal)
        case _:
            return carried(ablation)


@dataclass(frozen=True, eq=False)
class Start:
    """Starting values for learning constants.

    Args:
        problem: the problem; the learned constants replace its ablation.
        mean: mean of every writer over the corrupted prompts.
        size: size of every writer, the unit of its moves.
    """

    problem: Problem
    mean: Float[Tensor, "writer d_model"]
    size: Float[Tensor, " writer"]

    @staticmethod
    @torch.no_grad()
    def of(problem: Problem) -> "Start":
        """Starting values from the corrupted prompts of a problem; its ablation is ignored."""
        model, graph = problem.model, problem.graph
        corrupted = problem.task.corrupted
        mean = Mean().values(model, graph, corrupted)[:, 0, 0].float().cpu()
        one = writer_values(model, graph, corrupted[:1])[:, 0].float().cpu()
        # the median: at a prompt's first token some writers are a hundred times their usual size
        size = one.square().mean(-1).sqrt().median(-1).values
        return Start(replace(problem, ablation=Optimal(mean)), mean, size)

    def moves(self) -> Float[Tensor, "writer d_model"]:
        """Zero moves, to be trained."""
        return torch.zeros_like(self.mean, requires_grad=True)

    def constants(self, moves: Float[Tensor, "writer d_model"]) -> Float[Tensor, "writer d_model"]:
        """The constants after these moves."""
        return self.mean + self.size[:, None] * moves


def _circuits(graph: Graph, examples: int, generator: torch.Generator) -> Float[Tensor, "batch writer reader"]:
    """A circuit of any size for each example."""
    rates = torch.rand(examples, 1, generator=generator)
    drawn = torch.rand(examples, graph.n_edges, generator=generator)
    return on_edges(graph, (drawn < rates).float())
