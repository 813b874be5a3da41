"""What cutting each edge does to each example, to first order: attribution before it is averaged.

    effect(w → r, example) = (ablated(w) − clean(w)) · dL_example/d input(r)        [clean run]

Their mean over examples is the score of ``eap`` with the same metric.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.search.attribution import check_gradient_at_clean, probes
from subcircuit.search.problem import Problem


@entry
def effects_by_example(problem: Problem) -> Iterator[Float[Tensor, "writer reader"]]:
    """First-order effects of cutting every edge, one example after the other; 0 where no edge is.

    Raises:
        SettingsError: the metric has no gradients.
    """
    graph = problem.graph
    check_gradient_at_clean(problem, methods=False)
    for probe in probes(problem, batch_size=1):
        effects = torch.zeros(graph.edges.shape, dtype=torch.float64)
        for gradient in probe.gradients(probe.contrast.streams):
            at_unit = probe.contrast.effects(gradient).cpu()
            effects[: len(at_unit), list(gradient.readers)] = at_unit / probe.share
        yield effects.masked_fill(~graph.edges, 0.0)
