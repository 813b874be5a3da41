"""Edge attribution patching (Syed, Rager & Conmy 2023, arXiv 2310.10348).

    score(w → r) = (ablated(w) − clean(w)) · dL/d input(r)        [clean run]

Two forward passes and one backward, whatever the number of edges; layers are run once more when their gradients are
taken, and one matrix product per layer scores its edges. First order: exact where the model and the metric are linear
between clean and ablated, wrong where they bend, above all behind a saturated softmax. At the clean run a divergence
from the model has its minimum and no gradient: the search is refused. Use a logit difference, or ``eap-ig-inputs``.
"""

from dataclasses import dataclass

from subcircuit.entry import entry
from subcircuit.search.attribution import Watch, attribute, check_batch_size, check_gradient_at_clean
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.search.problem import Problem
from subcircuit.search.result import OnRound
from subcircuit.search.scores import EdgeScores, scored


@dataclass(frozen=True)
class Eap:
    """Settings of edge attribution patching.

    Args:
        batch_size: examples at once; None chooses by memory. The result is the same.
    """

    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)


@entry
def eap(problem: Problem, config: Eap, on_step: OnRound | None = None, journal: Journal = FORGETFUL) -> EdgeScores:
    """Score every edge.

    Args:
        problem: prompts, metric and ablation.
        config: settings.
        on_step: called after every batch of examples.
        journal: remembers the share of every batch of examples.

    Raises:
        SettingsError: the metric has no gradients.
        NumericalError: a score is NaN or infinite; names the edge.
    """
    check_gradient_at_clean(problem)
    watch = Watch(config, 1, on_step, journal)
    return scored(
        "eap",
        problem,
        lambda: attribute(problem, config.batch_size, lambda probe: [probe.contrast.streams], watch),
    )
