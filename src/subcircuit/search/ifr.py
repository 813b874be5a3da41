"""Information-flow routes (Ferrando & Voita 2024, arXiv 2403.00824): each writer's share of a reader's input.

    proximity(w, r)  = max(0, ‖x_r‖₁ − ‖x_r − value(w)‖₁)                    x_r the clean run's input of r
    importance(w, r) = proximity(w, r) / Σ over writers of proximity         mean over positions and examples

One forward pass. The method uses no corrupted prompts, no ablation and no metric, so scores measure the flow of information and
not the behaviour's need of it. Queries, keys and values of a layer's heads read the same input and get the same scores: grow
circuits from the logits (``Greedy``), or threshold them and prune. Positions count up to an example's last answer; at the
logits only the answers' positions count.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.ablation import Zero
from subcircuit.search.attribution import GradientProbe, Watch, summed
from subcircuit.search.journal import Journal
from subcircuit.search.method import ScoringMethod
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, ProgressCounter
from subcircuit.search.result import check_together


@dataclass(frozen=True)
class Ifr(ScoringMethod):
    """Settings of information-flow routes.

    Args:
        batch_size: examples at once; None chooses by memory. The result is the same.
    """

    name = "ifr"
    description = "information flow: no gradients, no metric (Ferrando & Voita 2024)"
    meaning = "share of the reader's input that comes from the writer"

    batch_size: int | None = None

    def check(self, problem: Problem) -> None:
        """Raise the errors that ``search`` would raise for this problem."""
        check_together(problem.graph, self.name)

    @torch.no_grad()
    def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        """The importance of each writer to a unit, the same for all the unit's readers."""
        graph = problem.graph

        def share(probe: GradientProbe, rounds: ProgressCounter) -> Float[Tensor, "writer reader"]:
            scores = torch.zeros(graph.edges.shape, dtype=torch.float64)
            for unit, readers in enumerate(graph.readers_in):
                flow = _importance(probe, unit).cpu()
                scores[: len(flow), list(readers)] += flow[:, None]
            rounds.done(len(probe))
            return scores

        # under zero ablation the difference is the whole value, at all positions
        return summed(replace(problem, ablation=Zero()), self.batch_size, share, Watch(self, 1, progress, journal))


def _importance(probe: GradientProbe, unit: int) -> Float[Tensor, " writer"]:
    """Share of a unit's input that comes from each earlier writer, as one batch's part of the task's mean."""
    contrast = probe.contrast
    writers = contrast.read_by(contrast.graph.readers_in[unit])
    rows = contrast.rows["answers" if not contrast.graph.units[unit].writers else "changed"]
    without, x = contrast.differences[:writers], contrast.streams[unit].flatten(0, 1)[rows.flat].to(contrast.differences)
    if rows is contrast.rows.answers:
        without = contrast.rows.take(without, "changed", "answers")
    left = torch.stack([torch.linalg.vector_norm(x + minus, 1, dim=-1) for minus in without])
    proximity = (torch.linalg.vector_norm(x, 1, dim=-1) - left).clamp(min=0).double()
    total = proximity.sum(0)
    importance = proximity / total.where(total > 0, 1)
    per_example = probe.by_example(importance, rows) / torch.bincount(rows.flat // contrast.rows.n_pos)
    return per_example.sum(-1) * probe.share
