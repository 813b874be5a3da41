"""Scores of edges: what a search that ranks edges finds.

A score estimates how much the loss-like metric grows when the edge is cut, L(M without e) − L(M): large scores mark
edges that the behaviour needs, negative ones edges that hold it back. Methods that estimate something else
(information flow, node importance, chance) say so; larger is more important with all of them.
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.errors import SettingsError
from subcircuit.graph import Circuit, Graph
from subcircuit.graph.select import check_scores
from subcircuit.search.problem import Problem
from subcircuit.search.result import Result

Found = TypeVar("Found")


def scored(
    problem: Problem, search: Callable[[], Float[Tensor, "writer reader"]], notes: dict[str, float] | None = None
) -> Result:
    """Run a search that ranks edges: a result that keeps all of them.

    Args:
        problem: on which plain forward passes are timed.
        search: returns a score for every edge; what stands where no edge is does not matter.
        notes: numbers that the method alone reports; ``search`` may add to them.

    Raises:
        NumericalError: a score is NaN or infinite; names the edge.
    """
    graph = problem.graph
    values, seconds, forward_seconds = timed(problem, search)
    check_scores(graph, values)
    values = values.detach().to("cpu", torch.float32).masked_fill(~graph.edges, float("nan"))
    # float64 scores beyond float32's range would turn infinite
    check_scores(graph, values)
    return Result(Circuit(graph, graph.edges, values), seconds, forward_seconds, notes=notes or {})


def timed(problem: Problem, search: Callable[[], Found]) -> tuple[Found, float, float]:
    """What a search returns, its seconds, and those of one plain forward pass over the clean prompts beside it."""
    before = time_forward(problem)
    began = perf_counter()
    found = search()
    seconds = perf_counter() - began
    # before and after: on a shared machine the speed of one moment is not that of the next
    return found, seconds, median(before + time_forward(problem))


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
        importance[list(owners)].amax() if (owners := graph.owners(r)) else torch.tensor(torch.inf, dtype=importance.dtype)
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
