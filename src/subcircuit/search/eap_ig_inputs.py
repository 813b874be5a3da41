"""Edge attribution patching with integrated gradients over inputs (Hanna, Pezzelle & Belinkov 2024, arXiv 2403.17806).

    score(w → r) = (ablated(w) − clean(w)) · 1/m Σ dL/d input(r) at embedding e′ + k/m (e − e′),   k = 1 … m = steps

e is what the embedding writes, e′ what its cut edges carry: under Resample the corrupted prompts' embedding. Every run
of the path is a run of the whole model. With many steps the scores of all edges out of the embedding add up to
L(e′) − L(e), the change of the metric along the path; scores of later edges have no such sum. Two forward passes for
the ends, then per step a forward and a backward (layers are run again there). Sees past the flat start of a saturated
softmax and of a divergence's minimum, but the path leads through inputs that no prompt has, and activations of
different layers are moved together, never one by one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from subcircuit.engine.backward import Streams, streams_from
from subcircuit.entry import entry
from subcircuit.errors import SettingsError
from subcircuit.search.attribution import Probe, Watch, attribute, check_batch_size, check_differentiable, check_gradient_at_clean
from subcircuit.search.footprint import Footprint, of_gradients
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.search.method import FIRST_ORDER, Method
from subcircuit.search.problem import Problem
from subcircuit.search.result import OnRound, Result
from subcircuit.search.scores import scored

# larger matrices are quicker, and every unit's gradients are contracted with all writers once for all of these steps
STEPS_AT_ONCE = 4


@dataclass(frozen=True)
class EapIgInputs(Method):
    """Settings of integrated gradients over inputs.

    Args:
        steps: points of the path at which gradients are taken.
        batch_size: examples at once; None chooses by memory. The result is the same.
    """

    name = "eap-ig-inputs"
    description = "gradients along the path of inputs (Hanna et al. 2024)"
    meaning = FIRST_ORDER

    steps: int = 5
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_batch_size(self.batch_size)

    def check(self, problem: Problem) -> None:
        """Refuse what ``search`` refuses."""
        check_path(problem, self.steps)

    @entry
    def search(self, problem: Problem, progress: OnRound | None = None, journal: Journal = FORGETFUL) -> Result:
        """Score every edge.

        Raises:
            SettingsError: the metric has no gradients.
            NumericalError: a score is NaN or infinite; names the edge.
        """
        self.check(problem)
        model = problem.model

        def path(probe: Probe) -> Iterator[Streams]:
            start, end = probe.contrast.ablated_embedding, probe.contrast.clean_embedding
            for first in range(1, self.steps, STEPS_AT_ONCE):
                steps = range(first, min(first + STEPS_AT_ONCE, self.steps))
                yield streams_from(model, probe.contrast.graph, torch.cat([start.lerp(end, step / self.steps) for step in steps]))
            yield probe.contrast.streams

        watch = Watch(self, self.steps, progress, journal)
        return scored(
            problem,
            lambda: attribute(problem, self.batch_size, path, watch),
        )

    def memory(self, problem: Problem) -> Footprint:
        """That of gradients at several steps at once."""
        return of_gradients(problem, self.batch_size, min(STEPS_AT_ONCE, self.steps))


def check_path(problem: Problem, steps: int) -> None:
    """The metric has gradients along a path of so many steps; the only one of one step is its end, the clean run.

    Raises:
        NoGradientError: it has none.
    """
    (check_differentiable if steps > 1 else check_gradient_at_clean)(problem)


def check_steps(steps: int) -> None:
    """A path has at least one step.

    Raises:
        SettingsError: it has not.
    """
    if steps < 1:
        raise SettingsError(f"steps is {steps}: it must be at least 1, for example 5")
