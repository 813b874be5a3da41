"""Results of searches: a circuit with scores, and the cost of the search.

A score estimates how much the loss-like metric grows when the edge is cut, L(M without e) − L(M). Large scores mark edges that
the behaviour needs, negative ones edges that oppose it. Methods that estimate something else (information flow, node importance,
chance) document it; for all methods a larger score is more important.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.display import bundle_of, html_of
from subcircuit.errors import SettingsError
from subcircuit.graph import Circuit, Edge, Graph, RefinePath
from subcircuit.graph.selection import Selection, check_scores, select_edges, selection_of
from subcircuit.search.problem import Problem
from subcircuit.search.warnings import faithfulness_of, warnings_of


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a method, and its cost.

    Args:
        circuit: the edges that are kept, and a score for each edge that was measured: NaN for the others. A method that ranks edges
            keeps all of them, and ``select`` takes the best.
        seconds: seconds of the search, without loading.
        forward_seconds: one plain forward pass over the clean prompts, measured in the same run.
        trials: circuits evaluated, discarded speculation included; None for methods that score all edges together.
        borderline: decisions within the float error of the threshold, made in float64; None if not checked (half
            precision) or if there are none to take.
        notes: numbers and words that only this method reports.
        path: the circuits of a refinement; None for other methods.
        ranked: whether every edge has a score, of which a selection makes a circuit; otherwise the method chose the circuit.
    """

    circuit: Circuit
    seconds: float
    forward_seconds: float
    trials: int | None = None
    borderline: int | None = None
    notes: Mapping[str, float | str] = field(default_factory=dict)
    path: RefinePath | None = None
    ranked: bool = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.circuit}; {self.seconds:.1f} s)"

    @property
    def graph(self) -> Graph:
        """The graph whose edges are scored."""
        return self.circuit.graph

    @property
    def scores(self) -> Float[Tensor, "writer reader"]:
        """A number for each edge that was measured, NaN elsewhere."""
        known = self.circuit.scores
        return torch.full(self.graph.edges.shape, float("nan")) if known is None else known

    @property
    def forward_equivalents(self) -> float:
        """Cost in units of one plain forward pass."""
        return self.seconds / self.forward_seconds

    def __getitem__(self, edge: str | Edge) -> float:
        """The score of one edge, by name or as a value."""
        return float(self.scores[self.graph.find(edge)])

    def select(self, selection: Selection | int) -> Circuit:
        """The circuit of the selected edges; a number selects that many edges of largest magnitude.

        Raises:
            SettingsError: more edges are asked for than the graph has.
            NumericalError: an edge has no score.
        """
        return select_edges(self.graph, self.scores, selection_of(selection, self.graph))


@dataclass(frozen=True, eq=False, kw_only=True)
class Discovery(Result):
    """A result whose circuit was measured on the search prompts.

    Args:
        metric: name of the search's metric.
        metric_model, metric_circuit, metric_corrupted: its own value for the whole model, for the circuit, and with
            every edge cut.
        kl_circuit: mean KL(model ‖ circuit) in nats.
        logit_difference_model, logit_difference_circuit, logit_difference_corrupted: mean correct minus mean wrong logit of the
            same; None without wrong answers.
        edges_selected: how many edges were selected by their scores, those among them that lie on no path; None for methods that
            decide themselves.
        metric_before: the metric of the circuit before a zoom; None for other searches.
    """

    metric: str
    metric_model: float
    metric_circuit: float
    metric_corrupted: float
    kl_circuit: float
    logit_difference_model: float | None
    logit_difference_circuit: float | None
    logit_difference_corrupted: float | None = None
    edges_selected: int | None = None
    metric_before: float | None = None

    def __repr__(self) -> str:
        ends = f"model {self.metric_model:.4g}, every edge cut {self.metric_corrupted:.4g}"
        found = f"{self.metric} {self.metric_circuit:.4g} ({ends}), KL {self.kl_circuit:.4g} nats"
        doubtful = "".join(f"\nwarning: {warning}" for warning in self.warnings)
        return f"Discovery({self.circuit}: {found}; {self.seconds:.1f} s){doubtful}"

    @property
    def faithfulness(self) -> float | None:
        """f of the circuit on the search prompts: 1 for the model, 0 with every edge cut.

        None if the metric has the same value for model and empty circuit.
        """
        return faithfulness_of(self.metric_circuit, self.metric_model, self.metric_corrupted)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to doubt the circuit, each with a remedy; empty if there are none."""
        return warnings_of(self.circuit)

    def _repr_html_(self) -> str:
        return html_of(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return bundle_of(self)


Found = TypeVar("Found")


def scored(
    problem: Problem, search: Callable[[], Float[Tensor, "writer reader"]], notes: dict[str, float] | None = None
) -> Result:
    """The result of a search that ranks edges; its circuit keeps all of them.

    Args:
        problem: the problem on which plain forward passes are timed.
        search: returns a score for every edge; values at pairs without an edge are ignored.
        notes: numbers that only this method reports; ``search`` may add to them.

    Raises:
        NumericalError: a score is NaN or infinite; names the edge.
    """
    graph = problem.graph
    values, seconds, forward_seconds = timed(problem, search)
    check_scores(graph, values)
    values = values.detach().to("cpu", torch.float32).masked_fill(~graph.edges, float("nan"))
    # float64 scores beyond float32's range would turn infinite
    check_scores(graph, values)
    return Result(Circuit(graph, graph.edges, values), seconds, forward_seconds, notes=notes or {}, ranked=True)


def timed(problem: Problem, search: Callable[[], Found]) -> tuple[Found, float, float]:
    """The search's result, its seconds, and the seconds of one plain forward pass over the clean prompts in the same run."""
    before = time_forward(problem)
    began = perf_counter()
    found = search()
    seconds = perf_counter() - began
    # measured before and after, because the speed of a shared machine varies
    return found, seconds, median(before + time_forward(problem))


def check_together(graph: Graph, method: str) -> None:
    """Refuse a graph that distinguishes positions, for a method that scores nodes at all positions together.

    Raises:
        SettingsError: the graph distinguishes positions.
    """
    if graph.shape.positions:
        raise SettingsError(
            f"{method} scores nodes over all positions together, and scope {graph.scope} separates positions: leave positions out of the "
            "scope, or use acdc, exact, eap, eap-ig-inputs, eap-ig-activations, clean-corrupted, relp, edge-pruning or ugs."
        )


def rank_correlation(a: Float[Tensor, " edge"], b: Float[Tensor, " edge"]) -> float | None:
    """Spearman's rank correlation of two lists of numbers (1904), ties at their mean rank.

    Returns:
        None for fewer than three pairs, or if one of the lists is constant.
    """
    if len(a) < 3 or bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return None
    # imported here because the import takes as long as importing all searches
    from scipy.stats import spearmanr

    correlation: Any = spearmanr(a.double().cpu().numpy(), b.double().cpu().numpy())
    return float(correlation.statistic)


def scores_of_nodes(graph: Graph, importance: Float[Tensor, " writer"]) -> Float[Tensor, "writer reader"]:
    """Scores of edges from scores of nodes: the smaller score of the edge's two nodes; the logits rank above all others.

    The edges with at least a given score are then all edges between nodes of at least that importance.
    """
    at_readers = [
        importance[list(owners)].amax() if (owners := graph.owners(r)) else torch.tensor(torch.inf, dtype=importance.dtype)
        for r in graph.readers
    ]
    return torch.minimum(importance[:, None], torch.stack(at_readers))


@torch.no_grad()
def time_forward(problem: Problem) -> list[float]:
    """Seconds of plain forward passes over the clean prompts, the unit of reported costs; the first pass is a warm-up."""
    model = problem.model
    seconds = []
    for _ in range(4):
        began = perf_counter()
        model(problem.task.clean)
        seconds.append(perf_counter() - began)
    return seconds[1:]
