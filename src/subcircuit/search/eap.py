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
from subcircuit.search.method import FIRST_ORDER, Method
from subcircuit.search.problem import Problem
from subcircuit.search.result import OnRound, Result
from subcircuit.search.scores import scored


@dataclass(frozen=True)
class Eap(Method):
    """Settings of edge attribution patching.

    Args:
        batch_size: examples at once; None chooses by memory. The result is the same.
    """

    name = "eap"
    description = "first order, at the clean run (Syed et al. 2023)"
    meaning = FIRST_ORDER

    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)

    def check(self, problem: Problem) -> None:
        """Refuse what ``search`` refuses."""
        check_gradient_at_clean(problem)

    @entry
    def search(self, problem: Problem, progress: OnRound | None = None, journal: Journal = FORGETFUL) -> Result:
        """Score every edge.

        Raises:
            SettingsError: the metric has no gradients.
            NumericalError: a score is NaN or infinite; names the edge.
        """
        self.check(problem)
        watch = Watch(self, 1, progress, journal)
        return scored(
            problem,
            lambda: attribute(problem, self.batch_size, lambda probe: [probe.contrast.streams], watch),
        )
