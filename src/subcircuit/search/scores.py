"""Scores of edges: what a search that ranks edges returns.

A score estimates how much the loss-like metric grows when the edge is cut, L(M without e) − L(M): large scores mark
edges that the behaviour needs, negative ones edges that hold it back. Methods that estimate something else
(information flow, node importance, chance) say so; larger is more important with all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.graph import Circuit, Edge, Graph, Logits
from subcircuit.graph.circuit import owners
from subcircuit.graph.select import Selection, check_scores, select_edges
from subcircuit.model.transformer import Transformer
from subcircuit.search.behaviour import Behaviour


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """A finite number for every edge of a graph, and what it cost.

    Args:
        graph: whose edges are scored.
        values: float32 on the processor; NaN exactly where there is no edge.
        method: the name of the search.
        seconds: of the search, without loading.
        forward_seconds: one plain forward pass over the clean prompts, measured in the same run.
    """

    graph: Graph
    values: Float[Tensor, "writer reader"]
    method: str
    seconds: float
    forward_seconds: float

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
    method: str,
    model: Transformer,
    graph: Graph,
    behaviour: Behaviour,
    search: Callable[[], Float[Tensor, "writer reader"]],
) -> EdgeScores:
    """Run a search and take its time.

    Args:
        method: the search's name.
        model, behaviour: on which plain forward passes are timed.
        graph: whose edges ``search`` scores.
        search: returns a score for every edge; what stands where no edge is does not matter.

    Raises:
        NumericalError: a score is NaN or infinite; names the edge.
    """
    before = time_forward(model, behaviour)
    began = perf_counter()
    values = search()
    seconds = perf_counter() - began
    # before and after: on a shared machine the speed of one moment is not that of the next
    return EdgeScores(graph, values, method, seconds, median(before + time_forward(model, behaviour)))


def scores_of_nodes(graph: Graph, importance: Float[Tensor, " writer"]) -> Float[Tensor, "writer reader"]:
    """Scores of edges from those of nodes: the lesser of an edge's two nodes, the logits being more important than any.

    The edges of at least a score are then all those between nodes of at least that importance.
    """
    at_readers = [
        torch.tensor(torch.inf, dtype=importance.dtype) if isinstance(r, Logits) else importance[list(owners(graph, r))].amax()
        for r in graph.readers
    ]
    return torch.minimum(importance[:, None], torch.stack(at_readers))


@torch.no_grad()
def time_forward(model: Transformer, behaviour: Behaviour) -> list[float]:
    """Seconds of plain forward passes over the clean prompts, the unit in which costs are told; the first is a warm-up."""
    seconds = []
    for _ in range(4):
        began = perf_counter()
        model(behaviour.task.clean)
        seconds.append(perf_counter() - began)
    return seconds[1:]
