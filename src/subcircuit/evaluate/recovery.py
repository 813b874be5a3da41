"""Recovery of a known circuit by a ranking of edges or by a sweep of circuits.

A part (an edge, a node) of the known circuit is positive, every other one negative. At a threshold,

    tpr = recall = found positives / positives        fpr = found negatives / negatives
    precision = found positives / found               (0 if nothing is found)
    f1 = 2 · found positives / (found + positives)    mistakes = found negatives + positives not found

ROC: the points (fpr, tpr) of all thresholds, with (0, 0) and (1, 1). Two areas:

    auc                 straight lines between the points: the chance that a random positive outranks a random negative
    auc_pessimistic     no interpolation between two points: the curve is the staircase
                        y(x) = max { tpr : a point with fpr ≤ x },  and its area  Σ (1 − fpr_i) · (tpr_i − best tpr before i)
                        over points by ascending fpr and then tpr (Conmy et al. 2023, arXiv 2304.14997, for points that
                        rise, as theirs do; a point below one to its left adds no area)

The second never exceeds the first and is the fair area for a sweep of few circuits; for scores without ties both are equal.
average precision = Σ over thresholds (recall_n − recall_{n−1}) · precision_n; the last threshold finds everything.

Parts are ``edges``; ``nodes``, that is the writers, because the logits are in every circuit; or ``edges and inputs``, as ACDC's
authors count: the edges, and each query, key or value input as one more part, found together with the first edge into it.
If parts of a circuit are redundant, correct parts that are not needed can be ``accepted``: they then
count neither as positive nor as negative.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.errors import GraphError, SettingsError
from subcircuit.evaluate.curves import trapezoid
from subcircuit.graph import Circuit, Graph
from subcircuit.graph.selection import By, check_scores
from subcircuit.units.nodes import bare

Part: TypeAlias = Literal["edges", "nodes", "edges and inputs"]


@dataclass(frozen=True)
class Roc:
    """Points of a receiver operating characteristic, by ascending fpr and then tpr, including the corners."""

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]

    def __repr__(self) -> str:
        return f"Roc({len(self.fpr)} points: AUC {self.auc:.3f})"

    @staticmethod
    def of(points: Sequence[tuple[float, float]]) -> "Roc":
        """The curve through points (fpr, tpr) in any order; the corners are added."""
        fpr, tpr = zip(*sorted({(0.0, 0.0), *points, (1.0, 1.0)}), strict=True)
        return Roc(fpr, tpr)

    @property
    def auc(self) -> float:
        """Area under straight lines between the points that have no other point above and to the left."""
        steps = list(zip(*self._rising, strict=True))
        return trapezoid([x for x, _ in steps], [y for _, y in steps])

    @property
    def auc_pessimistic(self) -> float:
        """Area under the staircase that moves right before it moves up."""
        fpr, tpr = self._rising
        return sum((1 - fpr[i]) * (tpr[i] - tpr[i - 1]) for i in range(1, len(fpr)))

    @property
    def _rising(self) -> tuple[list[float], list[float]]:
        """The points that are not below another point further left."""
        fpr, tpr = [0.0], [0.0]
        for x, y in zip(self.fpr[1:], self.tpr[1:], strict=True):
            if y >= tpr[-1]:
                fpr.append(x)
                tpr.append(y)
        return fpr, tpr


@dataclass(frozen=True)
class Overlap:
    """The found parts compared with the known circuit.

    Args:
        found, right: number of found parts, and number of correct ones among them.
        positives, negatives: number of parts inside and outside the known circuit.
    """

    found: int
    right: int
    positives: int
    negatives: int

    @property
    def precision(self) -> float:
        """Correct share of the found parts; 0 if nothing was found."""
        return self.right / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        """Found share of the positives, also called the true positive rate."""
        return self.right / self.positives

    @property
    def fpr(self) -> float:
        """Found share of the negatives."""
        return (self.found - self.right) / self.negatives

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.right / (self.found + self.positives)

    @property
    def mistakes(self) -> int:
        """Number of found negatives and missed positives."""
        return self.found + self.positives - 2 * self.right


@dataclass(frozen=True)
class Recovery:
    """Recovery of the parts of a known circuit by scores, or by the circuits of a sweep.

    Args:
        part: kind of the parts.
        thresholds: threshold of each overlap: the smallest score that counts, or the threshold of a search.
        overlaps: for scores, one per distinct score, from the largest.
    """

    part: Part
    thresholds: tuple[float, ...]
    overlaps: tuple[Overlap, ...]

    def __repr__(self) -> str:
        return f"Recovery({self.positives:,} true {self.part} of {self.positives + self.negatives:,}: AUC {self.roc.auc:.3f})"

    @property
    def positives(self) -> int:
        """Parts inside the known circuit."""
        return self.overlaps[0].positives

    @property
    def negatives(self) -> int:
        """Parts outside the known circuit."""
        return self.overlaps[0].negatives

    @cached_property
    def roc(self) -> Roc:
        """One point per threshold."""
        return Roc.of([(overlap.fpr, overlap.recall) for overlap in self.overlaps])

    @property
    def average_precision(self) -> float:
        """Area under the steps of precision over recall."""
        everything = Overlap(self.positives + self.negatives, self.positives, self.positives, self.negatives)
        # with equal recall, the most precise point comes first and gets the gain
        ordered = sorted((*self.overlaps, everything), key=lambda one: (one.right, one.found))
        before = (0.0, *(one.recall for one in ordered))
        return sum((one.recall - had) * one.precision for one, had in zip(ordered, before, strict=False))

    @cached_property
    def best(self) -> tuple[float, Overlap]:
        """The threshold of the highest F1 (with ties, the one that finds fewest parts), and its overlap."""
        each = zip(self.thresholds, self.overlaps, strict=True)
        return max(each, key=lambda one: (one[1].f1, -one[1].found))


def recovery(
    known: Circuit,
    scores: Float[Tensor, "writer reader"],
    part: Part = "edges",
    by: By = "signed",
    accepted: Circuit | None = None,
) -> Recovery:
    """Recovery of the parts of a known circuit by scores of edges.

    A node's score is the highest score of its edges, so that it is found together with the first of them; an
    input's score is the highest score of the edges into it.

    Args:
        accepted: a larger circuit, whose further parts count neither way.

    Raises:
        GraphError: scores of another shape.
        NumericalError: an edge's score is NaN or infinite.
        SettingsError: the known circuit has none or all of the parts.
    """
    graph = known.graph
    check_scores(graph, scores.cpu())
    values = scores.cpu().T[graph.edges.T].double()
    values = _of_parts(graph, values.abs() if by == "absolute" else values, part)
    counted, truth = _counted(known, part, accepted)
    positives, negatives = _count(truth)
    distinct, found, right = _sweep(values[counted], truth)
    overlaps = (Overlap(int(n), int(hits), positives, negatives) for n, hits in zip(found.tolist(), right.tolist(), strict=True))
    return Recovery(part, tuple(distinct.tolist()), tuple(overlaps))


def recovery_of_circuits(
    known: Circuit, found: Sequence[tuple[float, Circuit]], part: Part = "edges", accepted: Circuit | None = None
) -> Recovery:
    """Recovery of a known circuit by the circuits of a sweep, for example over ACDC's threshold.

    Args:
        found: thresholds with their circuits, at least one.
        accepted: as in `recovery`.

    Raises:
        GraphError, SettingsError: as in `overlap`.
    """
    thresholds, circuits = zip(*found, strict=True)
    return Recovery(part, thresholds, tuple(overlap(known, circuit, part, accepted) for circuit in circuits))


def overlap(known: Circuit, found: Circuit, part: Part = "edges", accepted: Circuit | None = None) -> Overlap:
    """Precision, recall and false positive rate of one circuit.

    Raises:
        GraphError: circuits of different graphs.
        SettingsError: as in `recovery`.
    """
    if known.graph != found.graph:
        raise GraphError(f"circuits of different graphs cannot be compared; they differ in {known.graph.unlike(found.graph)}")
    counted, truth = _counted(known, part, accepted)
    mine = _members(found, part)[counted]
    return Overlap(int(mine.sum()), int((truth & mine).sum()), *_count(truth))


def roc_of_circuits(known: Circuit, found: Sequence[Circuit], part: Part = "edges") -> Roc:
    """The points of a sweep, for example over ACDC's threshold.

    Raises:
        GraphError, SettingsError: as in `overlap`.
    """
    each = [overlap(known, circuit, part) for circuit in found]
    return Roc.of([(one.fpr, one.recall) for one in each])


def _counted(known: Circuit, part: Part, accepted: Circuit | None) -> tuple[Bool[Tensor, " part"], Bool[Tensor, " counted"]]:
    """The parts that count, and the correct ones among them."""
    truth = _members(known, part)
    counted = torch.ones_like(truth) if accepted is None else truth | ~_members(accepted, part)
    return counted, truth[counted]


def _members(circuit: Circuit, part: Part) -> Bool[Tensor, " part"]:
    """Membership of edges (by reader, then writer), inputs or writers in a circuit, at any position."""
    if part == "nodes":
        nodes = {bare(node) for node in circuit.nodes}
        return torch.tensor([writer in nodes for writer in circuit.graph.writers])
    edges = circuit.kept.T[circuit.graph.edges.T]
    return edges if part == "edges" else torch.cat([edges, circuit.kept.any(0)[_inputs(circuit.graph)]])


def _of_parts(graph: Graph, values: Float[Tensor, " edge"], part: Part) -> Float[Tensor, " part"]:
    """Scores of parts, in the order of ``_members``, from scores of edges."""
    if part == "edges":
        return values
    table = torch.full(graph.edges.T.shape, -torch.inf, dtype=torch.float64)
    table[graph.edges.T] = values
    if part == "edges and inputs":
        return torch.cat([values, table.amax(1)[_inputs(graph)]])
    nodes = table.amax(0)
    for index, reader in enumerate(graph.readers):
        for writer in graph.owners(reader):
            nodes[writer] = torch.maximum(nodes[writer], table[index].amax())
    return nodes


def _inputs(graph: Graph) -> list[int]:
    """The inputs of heads."""
    return [index for index, reader in enumerate(graph.readers) if reader.column is not None]


def _count(truth: Bool[Tensor, " part"]) -> tuple[int, int]:
    positives = int(truth.sum())
    if positives in (0, len(truth)):
        raise SettingsError(
            f"the known circuit has {positives} of {len(truth)} parts: a ROC curve needs parts inside and parts outside the circuit"
        )
    return positives, len(truth) - positives


def _sweep(
    values: Float[Tensor, " part"], truth: Bool[Tensor, " part"]
) -> tuple[Float[Tensor, " threshold"], Float[Tensor, " threshold"], Float[Tensor, " threshold"]]:
    """The distinct scores from the highest, with the number of parts of at least that score and of correct ones among them."""
    distinct, group = values.unique(return_inverse=True)
    sizes = torch.zeros_like(distinct).index_add(0, group, torch.ones_like(values)).flip(0)
    right = torch.zeros_like(distinct).index_add(0, group, truth.double()).flip(0)
    return distinct.flip(0), sizes.cumsum(0), right.cumsum(0)
