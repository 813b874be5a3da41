"""How much of a known circuit a ranking of edges, or a sweep of circuits, finds again.

An edge (or node) of the known circuit is positive, every other one negative. At a threshold,

    tpr = recall = found positives / positives        fpr = found negatives / negatives
    precision = found positives / found               (0 where nothing is found)

ROC: the points (fpr, tpr) of all thresholds, with (0, 0) and (1, 1). Two areas:

    auc                 straight lines between the points: the chance that a random positive outranks a random negative
    auc_pessimistic     between two points nothing is assumed to be found before it is: the curve is the staircase
                        y(x) = max { tpr : a point with fpr ≤ x },  and its area  Σ (1 − fpr_i) · (tpr_i − best tpr before i)
                        over points by ascending fpr and then tpr (Conmy et al. 2023, arXiv 2304.14997, for points that
                        rise, as theirs do; a point below one to its left adds nothing here)

The second never exceeds the first and is the fair one for a sweep of few circuits; for untied scores both are the same.
average precision = Σ over thresholds (recall_n − recall_{n−1}) · precision_n.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.errors import GraphError, SettingsError
from subcircuit.evaluate.curves import trapezoid
from subcircuit.graph import Circuit, Graph
from subcircuit.graph.circuit import owners
from subcircuit.graph.select import By, check_scores

Part: TypeAlias = Literal["edges", "nodes"]


@dataclass(frozen=True)
class Roc:
    """Points of a receiver operating characteristic, by ascending fpr and then tpr, the corners among them."""

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]

    @staticmethod
    def of(points: Sequence[tuple[float, float]]) -> "Roc":
        """From (fpr, tpr) in any order; the corners are added."""
        fpr, tpr = zip(*sorted({(0.0, 0.0), *points, (1.0, 1.0)}), strict=True)
        return Roc(fpr, tpr)

    @property
    def auc(self) -> float:
        """Area under straight lines between the points that no other point is above and left of."""
        steps = list(zip(*self._rising, strict=True))
        return trapezoid([x for x, _ in steps], [y for _, y in steps])

    @property
    def auc_pessimistic(self) -> float:
        """Area under the staircase that goes right before it goes up."""
        fpr, tpr = self._rising
        return sum((1 - fpr[i]) * (tpr[i] - tpr[i - 1]) for i in range(1, len(fpr)))

    @property
    def _rising(self) -> tuple[list[float], list[float]]:
        """The points without those that lie below one further left."""
        fpr, tpr = [0.0], [0.0]
        for x, y in zip(self.fpr[1:], self.tpr[1:], strict=True):
            if y >= tpr[-1]:
                fpr.append(x)
                tpr.append(y)
        return fpr, tpr


@dataclass(frozen=True)
class Recovery:
    """How well scores rank the parts of a known circuit.

    Args:
        part: what was looked for.
        positives, negatives: parts inside and outside of the known circuit.
        roc: one point for each distinct score.
        average_precision: area under the steps of precision over recall.
    """

    part: Part
    positives: int
    negatives: int
    roc: Roc
    average_precision: float


@dataclass(frozen=True)
class Overlap:
    """One found circuit against the known one.

    Args:
        precision: share of what was found that is right; 0 where nothing was found.
        recall: share of what is right that was found; also the true positive rate.
        fpr: share of what is wrong that was found.
    """

    precision: float
    recall: float
    fpr: float


def recovery(known: Circuit, scores: Float[Tensor, "writer reader"], part: Part = "edges", by: By = "signed") -> Recovery:
    """How well scores of edges rank the edges or the nodes of a known circuit.

    A node's score is the highest of the edges that touch it, so that it is found together with the first of them. Nodes
    are the writers: the logits are in every circuit.

    Raises:
        GraphError: scores of another shape.
        NumericalError: an edge's score is NaN or infinite.
        SettingsError: the known circuit has none or all of the parts, so that there is nothing to tell apart.
    """
    graph = known.graph
    check_scores(graph, scores.cpu())
    values = scores.cpu().T[graph.edges.T].double()
    values = values.abs() if by == "absolute" else values
    truth = _members(known, part)
    positives, negatives = _count(truth)
    values = values if part == "edges" else _of_nodes(graph, values)
    found, right = _sweep(values, truth)
    points = zip(((found - right) / negatives).tolist(), (right / positives).tolist(), strict=True)
    gained = torch.diff(right, prepend=right.new_zeros(1)) / positives
    return Recovery(part, positives, negatives, Roc.of(list(points)), float((gained * right / found).sum()))


def overlap(known: Circuit, found: Circuit, part: Part = "edges") -> Overlap:
    """Precision, recall and false positive rate of one circuit.

    Raises:
        GraphError: circuits of different graphs.
        SettingsError: as in `recovery`.
    """
    if known.graph != found.graph:
        raise GraphError(f"circuits of different graphs cannot be compared: {known.graph} and {found.graph}")
    truth, mine = _members(known, part), _members(found, part)
    positives, negatives = _count(truth)
    hits, size = int((truth & mine).sum()), int(mine.sum())
    return Overlap(hits / size if size else 0.0, hits / positives, (size - hits) / negatives)


def roc_of_circuits(known: Circuit, found: Sequence[Circuit], part: Part = "edges") -> Roc:
    """The points of a sweep, for example over ACDC's threshold.

    Raises:
        GraphError, SettingsError: as in `overlap`.
    """
    each = [overlap(known, circuit, part) for circuit in found]
    return Roc.of([(one.fpr, one.recall) for one in each])


def _members(circuit: Circuit, part: Part) -> Bool[Tensor, " part"]:
    """Which edges (by reader and then by writer) or writers belong to a circuit."""
    if part == "edges":
        return circuit.kept.T[circuit.graph.edges.T]
    nodes = set(circuit.nodes)
    return torch.tensor([writer in nodes for writer in circuit.graph.writers])


def _of_nodes(graph: Graph, values: Float[Tensor, " edge"]) -> Float[Tensor, " writer"]:
    table = torch.full(graph.edges.T.shape, -torch.inf, dtype=torch.float64)
    table[graph.edges.T] = values
    nodes = table.amax(0)
    for index, reader in enumerate(graph.readers):
        for writer in owners(graph, reader):
            nodes[writer] = torch.maximum(nodes[writer], table[index].amax())
    return nodes


def _count(truth: Bool[Tensor, " part"]) -> tuple[int, int]:
    positives = int(truth.sum())
    if positives in (0, len(truth)):
        raise SettingsError(f"the known circuit has {positives} of {len(truth)} parts: there is nothing to tell apart")
    return positives, len(truth) - positives


def _sweep(
    values: Float[Tensor, " part"], truth: Bool[Tensor, " part"]
) -> tuple[Float[Tensor, " threshold"], Float[Tensor, " threshold"]]:
    """At each distinct score from the highest: how many parts score at least that, and how many of them are right."""
    distinct, group = values.unique(return_inverse=True)
    sizes = torch.zeros_like(distinct).index_add(0, group, torch.ones_like(values)).flip(0)
    right = torch.zeros_like(distinct).index_add(0, group, truth.double()).flip(0)
    return sizes.cumsum(0), right.cumsum(0)
