"""Hybrid scores: attribution selects edges, and exact effects rank them.

    score(w → r) = L(M without w → r) − L(M)   for nominated edges,      0 for the others

The edges of largest |attribution| are nominated until they hold the share ``coverage`` of the sum of all |attributions|,
or until there are ``most`` of them. Their exact effects are measured (``exact.py``). This corrects wrong gradients among the
nominated edges, but edges that gradients overlooked stay overlooked. The amount overlooked is measured: the exact effects of a
random sample of the other edges are reported as notes: ``nominated``, ``sampled``,
``sample_largest`` (the largest |effect| in the sample), ``sample_share`` (the estimated share of all edges' summed
|effects| that was never nominated), and ``nominated_rank_correlation`` (Spearman's, of attributions with effects among
the nominated). Cost: the attribution's, and up to half a forward pass for each edge measured.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.errors import SettingsError
from subcircuit.graph import Graph
from subcircuit.search.attribution import check_batch_size, check_differentiable, examples_at_once
from subcircuit.search.cost import SearchCost
from subcircuit.search.eap import EapIgInputs
from subcircuit.search.exact import effects_of, memory_of_cuts, seconds_of_a_cut, work_of_cuts
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.search.memory import Footprint
from subcircuit.search.method import ALONE, Method
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, ProgressCounter
from subcircuit.search.result import Result, rank_correlation, scored


@dataclass(frozen=True)
class Hybrid(Method):
    """Settings of hybrid scores.

    Args:
        coverage: the share of all |attributions| that nominated edges hold, in (0, 1].
        most: never nominate more edges than this.
        sample: number of edges that were not nominated and are measured as a check.
        steps: number of steps of the attribution along the path of inputs.
        seed: random seed of the sample.
        batch_size: examples at once; None chooses by memory. The result is the same.
    """

    name = "hybrid"
    description = "attribution selects edges, exact effects rank them"
    meaning = f"{ALONE}, measured; 0 for edges that attribution did not select"

    coverage: float = 0.99
    most: int = 2000
    sample: int = 200
    steps: int = 5
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)
        if not 0 < self.coverage <= 1:
            raise SettingsError(f"coverage is {self.coverage}: it must be a share above 0 and at most 1, for example 0.99")
        if self.most < 1 or self.sample < 0:
            raise SettingsError(f"most is {self.most} and sample is {self.sample}: most must be at least 1, sample at least 0")

    def check(self, problem: Problem) -> None:
        """Raise the errors that ``search`` would raise for this problem."""
        check_differentiable(problem)

    @entry
    def search(self, problem: Problem, progress: OnProgress | None = None, journal: Journal = FORGETFUL) -> Result:
        """Score every edge: the nominated ones by their effect.

        Raises:
            SettingsError: the metric has no gradients.
            NumericalError: a score is NaN or infinite; names the edge.
        """
        self.check(problem)
        graph = problem.graph
        notes: dict[str, float] = {}

        def search() -> Float[Tensor, "writer reader"]:
            attributions = EapIgInputs(self.steps, self.batch_size).search(problem, journal=journal).scores
            nominated = nominate(graph, attributions, self.coverage, self.most)
            sampled = _sample(graph.edges & ~nominated, self.sample, self.seed)
            size = examples_at_once(problem, self.batch_size)
            rounds = ProgressCounter(work_of_cuts(graph, nominated | sampled), progress, "", self.name)
            effects = effects_of(problem, nominated | sampled, size, rounds, journal=journal)
            notes.update(_notes(graph, attributions, effects, nominated, sampled))
            return effects.where(nominated, 0)

        return scored(problem, search, notes)

    def cost(self, problem: Problem, patience: float = 60.0) -> SearchCost:
        """The cost of the attribution, and of cutting the measured edges."""
        cuts = min(problem.graph.n_edges, self.most + self.sample)
        attributing = EapIgInputs(self.steps, self.batch_size).cost(problem).seconds
        return SearchCost(attributing + cuts * seconds_of_a_cut(problem, self.batch_size), problem, cuts)

    def memory(self, problem: Problem) -> Footprint:
        """Memory of all runs, plus a batch of trials."""
        return memory_of_cuts(problem, self.batch_size)


def nominate(
    graph: Graph, attributions: Float[Tensor, "writer reader"], coverage: float, most: int
) -> Bool[Tensor, "writer reader"]:
    """The largest |attributions| that together hold this share of the sum; at least one, at most ``most``."""
    sizes = attributions.abs()[graph.edges].double()
    order = sizes.sort(descending=True, stable=True).indices
    held = sizes[order].cumsum(0)
    enough = int((held < coverage * held[-1]).sum()) + 1
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    chosen[order[: min(enough, most, len(order))]] = True
    return torch.zeros_like(graph.edges).masked_scatter(graph.edges, chosen)


def _sample(among: Bool[Tensor, "writer reader"], count: int, seed: int) -> Bool[Tensor, "writer reader"]:
    cells = among.flatten().nonzero().flatten()
    drawn = torch.zeros_like(among).flatten()
    drawn[cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))[:count]]] = True
    return drawn.view(among.shape)


def _notes(
    graph: Graph,
    attributions: Float[Tensor, "writer reader"],
    effects: Float[Tensor, "writer reader"],
    nominated: Bool[Tensor, "writer reader"],
    sampled: Bool[Tensor, "writer reader"],
) -> dict[str, float]:
    held, missed = effects[nominated].abs(), effects[sampled].abs()
    notes = {"nominated": float(len(held)), "sampled": float(len(missed))}
    if len(missed):
        lost = float(missed.mean()) * (graph.n_edges - len(held))
        total = lost + float(held.sum())
        notes |= {"sample_largest": float(missed.max()), "sample_share": lost / total if total else 0.0}
    correlation = rank_correlation(attributions[nominated], effects[nominated])
    return notes if correlation is None else {**notes, "nominated_rank_correlation": correlation}
