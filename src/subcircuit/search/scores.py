"""Scores of edges: what a search that ranks edges returns.

A score estimates how much the loss-like metric grows when the edge is cut, L(M without e) − L(M): large scores mark
edges that the behaviour needs, negative ones edges that hold it back. Methods that estimate something else
(information flow, node importance, chance) say so; larger is more important with all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.errors import SettingsError
from subcircuit.graph import Circuit, Edge, Graph, Logits
from subcircuit.graph.select import Selection, check_scores, select_edges
from subcircuit.search.problem import Problem


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """A finite number for every edge of a graph, and what it cost.

    Args:
        graph: whose edges are scored.
        values: float32 on the processor; NaN exactly where there is no edge.
        method: the name of the search.
        seconds: of the search, without loading.
        forward_seconds: one plain forward pass over the clean prompts, measured in the same run.
        notes: numbers that the method alone reports.
    """

    graph: Graph
    values: Float[Tensor, "writer reader"]
    method: str
    seconds: float
    forward_seconds: float
    notes: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        sizes = self.values.abs().nan_to_num(-1)
        writer, reader = divmod(int(sizes.argmax()), sizes.shape[1])
        largest = f"largest {self.graph.edge(writer, reader)} {float(self.values[writer, reader]):.4g}"
        return f"EdgeScores({self.method}: {self.graph.n_edges:,} edges, {largest}; {self.seconds:.1f} s)"

    def __post_init__(self) -> None:
        check_scores(self.graph, self.values)
        values = self.values.detach().to("cpu", torch.float32).masked_fill(~self.graph.edges, float("nan"))
        # float64 scores beyond float32's range would turn infinite
        check_scores(self.graph, values)
        object.__setattr__(self, "values", values)

    @property
    def forward_equivalents(self) -> float:
        """Cost in units of one plain forward pass."""
        return self.seconds / self.forward_seconds

    def __getitem__(self, edge: str | Edge) -> float:
        """The score of one edge, by name or as a value."""
        return float(self.values[self.graph.find(edge)])

    def select(self, selection: Selection) -> Circuit:
        """The circuit of the edges that a selection takes.

        Raises:
            SettingsError: more edges are asked for than the graph has.
        """
        return select_edges(self.graph, self.values, selection)


def scored(
    method: str, problem: Problem, search: Callable[[], Float[Tensor, "writer reader"]], notes: dict[str, float] | None = None
) -> EdgeScores:
    """Run a search and take its time.

    Args:
        method: the search's name.
        problem: on which plain forward passes are timed.
        search: returns a score for every edge; what stands where no edge is does not matter.
        notes: numbers that the method alone reports; ``search`` may add to them.

    Raises:
        NumericalError: a score is NaN or infinite; names the edge.
    """
    graph = problem.graph
    before = time_forward(problem)
    began = perf_counter()
    values = search()
    seconds = perf_counter() - began
    # before and after: on a shared machine the speed of one moment is not that of the next
    return EdgeScores(graph, values, method, seconds, median(before + time_forward(problem)), notes or {})


def check_together(graph: Graph, method: str) -> None:
    """Refuse a graph that tells places apart, for a method that scores nodes at all positions.

    Raises:
        SettingsError: it does.
    """
    if graph.shape.places:
        raise SettingsError(
            f"{method} scores nodes at all positions together, and scope {graph.scope} tells them apart: leave positions out of "
            "the scope, or use acdc, exact, eap, eap-ig-inputs, eap-ig-activations, clean-corrupted, relp, edge-pruning or ugs."
        )


def rank_correlation(a: Float[Tensor, " edge"], b: Float[Tensor, " edge"]) -> float | None:
    """Spearman's rank correlation of two lists of numbers (1904), ties at their mean rank.

    Returns:
        None where there are fewer than three pairs, or where one of the lists says the same of all.
    """
    if len(a) < 3 or bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return None
    # takes as long to import as all searches together
    from scipy.stats import spearmanr

    correlation: Any = spearmanr(a.double().cpu().numpy(), b.double().cpu().numpy())
    return float(correlation.statistic)


def scores_of_nodes(graph: Graph, importance: Float[Tensor, " writer"]) -> Float[Tensor, "writer reader"]:
    """Scores of edges from those of nodes: the lesser of an edge's two nodes, the logits being more important than any.

    The edges of at least a score are then all those between nodes of at least that importance.
    """
    at_readers = [
        torch.tensor(torch.inf, dtype=importance.dtype) if isinstance(r, Logits) else importance[list(graph.owners(r))].amax()
        for r in graph.readers
    ]
    return torch.minimum(importance[:, None], torch.stack(at_readers))


@torch.no_grad()
def time_forward(problem: Problem) -> list[float]:
    """Seconds of plain forward passes over the clean prompts, the unit in which costs are told; the first is a warm-up."""
    model = problem.model
    seconds = []
    for _ in range(4):
        began = perf_counter()
        model(problem.task.clean)
        seconds.append(perf_counter() - began)
    return seconds[1:]
