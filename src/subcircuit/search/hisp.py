"""Head importance (Michel, Levy & Neubig 2019, arXiv 1905.10650), for all nodes that write.

    importance(w) = mean over examples of |Σ (ablated(w) − clean(w)) · dL/d value(w)|, over positions and d_model
    score(w → r)  = min(importance(w), importance(node of r)),     importances divided by their layer's root sum of squares

Under Zero this is Michel et al.'s |a · dL/da|; Conmy et al. 2023 (arXiv 2304.14997) replace zero by the corrupted run's
value. Nodes are scored, not edges: the edges with at least a given score are all edges between nodes of at least that
importance. The cost is that of ``eap``. First order like ``eap``, blind at a divergence's minimum, and importances of different
layers are not comparable because each layer is scaled to one: a layer that does nothing has its largest head too.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.graph import Graph
from subcircuit.search.attribution import GradientProbe, Watch, check_gradient_at_clean, summed
from subcircuit.search.journal import Journal
from subcircuit.search.method import ScoringMethod
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, ProgressCounter
from subcircuit.search.result import check_together, scores_of_nodes


@dataclass(frozen=True)
class Hisp(ScoringMethod):
    """Settings of head importance.

    Args:
        batch_size: examples at once; None chooses by memory. The result is the same.
    """

    name = "hisp"
    description = "importance of nodes (Michel et al. 2019)"
    meaning = "importance of the less important of the edge's two nodes"

    batch_size: int | None = None

    def check(self, problem: Problem) -> None:
        """Raise the errors that ``search`` would raise for this problem."""
        check_together(problem.graph, self.name)
        check_gradient_at_clean(problem)

    def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        """The smaller importance of each edge's two nodes."""

        def share(probe: GradientProbe, rounds: ProgressCounter) -> Float[Tensor, " writer"]:
            rounds.done(len(probe))
            return _importance(probe).cpu()

        importance = summed(problem, self.batch_size, share, Watch(self, 1, progress, journal))
        return scores_of_nodes(problem.graph, _scaled(problem.graph, importance))


def _importance(probe: GradientProbe) -> Float[Tensor, " writer"]:
    """Each writer's part of the task's mean importance, from one batch."""
    contrast, graph = probe.contrast, probe.contrast.graph
    products = torch.zeros(contrast.differences.shape[:2], dtype=torch.float64, device=contrast.differences.device)

    def put(writers: list[int], gradient: Float[Tensor, "batch pos d_model"]) -> None:
        products[writers] = torch.linalg.vecdot(contrast.differences[writers], contrast.at_rows(gradient)).double()

    at_embedding = torch.zeros_like(contrast.clean_embedding, dtype=contrast.differences.dtype)
    for gradient in probe.gradients(contrast.streams):
        put(list(graph.writers_in[graph.unit_of[gradient.readers[0]]]), gradient.written)
        at_embedding = at_embedding + gradient.at_readers.sum(0)
    put(_layers(graph)[0], at_embedding)
    return probe.by_example(products, contrast.rows.changed).abs().sum(1)


def _layers(graph: Graph) -> list[list[int]]:
    """The writers of the embedding and of each layer."""
    layers: dict[int, list[int]] = {}
    for index, writer in enumerate(graph.writers):
        layers.setdefault(getattr(writer, "layer", -1), []).append(index)
    return list(layers.values())


def _scaled(graph: Graph, importance: Float[Tensor, " writer"]) -> Float[Tensor, " writer"]:
    scaled = importance.clone()
    for layer in _layers(graph):
        size = torch.linalg.vector_norm(importance[layer])
        scaled[layer] = importance[layer] / size.where(size > 0, 1)
    return scaled
