"""Attribution from both ends: the mean of the gradients in the clean and in the corrupted run.

    score(w → r) = (corrupted(w) − clean(w)) · ½ (dL/d input(r) [clean run] + dL/d input(r) [corrupted run])

The trapezoid rule for the path between the two, exact where the loss is quadratic along it (Mueller et al. 2025,
arXiv 2504.13151, compare it with integrated gradients). Two forward passes and two backward ones. Unlike ``eap`` it has
something to say about divergences from the model, through the corrupted end alone; where the metric bends only between
the ends, neither of them sees it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from subcircuit.engine.ablation import Resample
from subcircuit.engine.backward import Streams, streams_from
from subcircuit.entry import entry
from subcircuit.errors import SettingsError
from subcircuit.search.attribution import Probe, Watch, attribute, check_batch_size, check_differentiable
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.search.method import FIRST_ORDER, Method
from subcircuit.search.problem import Problem
from subcircuit.search.result import OnRound, Result
from subcircuit.search.scores import scored


@dataclass(frozen=True)
class CleanCorrupted(Method):
    """Settings of attribution from both ends.

    Args:
        batch_size: examples at once; None chooses by memory. The result is the same.
    """

    name = "clean-corrupted"
    description = "gradients at both ends"
    meaning = FIRST_ORDER

    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)

    def check(self, problem: Problem) -> None:
        """Refuse what ``search`` refuses."""
        check_differentiable(problem)
        if not isinstance(problem.ablation, Resample):
            raise SettingsError(
                "clean-corrupted takes gradients in the run of the corrupted prompts, and only the ablation resample leads there: "
                "use it, or eap or eap-ig-inputs with this ablation."
            )

    @entry
    def search(self, problem: Problem, progress: OnRound | None = None, journal: Journal = FORGETFUL) -> Result:
        """Score every edge.

        Raises:
            SettingsError: the metric has no gradients, or another ablation, whose far end is no run of the model.
            NumericalError: a score is NaN or infinite; names the edge.
        """
        self.check(problem)
        model = problem.model

        def ends(probe: Probe) -> Iterator[Streams]:
            yield probe.contrast.streams
            yield streams_from(model, probe.contrast.graph, probe.contrast.ablated_embedding)

        return scored(
            problem,
            lambda: attribute(problem, self.batch_size, ends, Watch(self, 2, progress, journal)),
        )
