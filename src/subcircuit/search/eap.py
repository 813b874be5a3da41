"""Attribution: first-order effects of all edges at once, from gradients at the clean run, along paths to it, or at both ends.

Edge attribution patching, ``eap`` (Syed, Rager & Conmy 2023, arXiv 2310.10348).

    score(w → r) = (ablated(w) − clean(w)) · dL/d input(r)        [clean run]

Two forward passes and one backward, whatever the number of edges; layers are run once more when their gradients are
taken, and one matrix product per layer scores its edges. First order: exact if the model and the metric are linear
between clean and ablated, wrong where they bend, above all behind a saturated softmax. A divergence from the model has its
minimum, and so no gradient, at the clean run: the search is refused. Use a logit difference, or ``eap-ig-inputs``.

Integrated gradients over inputs, ``eap-ig-inputs`` (Hanna, Pezzelle & Belinkov 2024, arXiv 2403.17806).

    score(w → r) = (ablated(w) − clean(w)) · 1/m Σ dL/d input(r) at embedding e′ + k/m (e − e′),   k = 1 … m = steps

e is the embedding's value and e′ the value of its cut edges: under Resample the corrupted prompts' embedding. Every run
of the path is a run of the whole model. With many steps the scores of all edges out of the embedding add up to
L(e′) − L(e), the change of the metric along the path; scores of later edges have no such sum. Two forward passes for
the ends, then per step a forward and a backward (layers are run again there). The method sees past the flat start of a
saturated softmax and of a divergence's minimum. But the path leads through inputs that no prompt has, and activations of
different layers always move together.

Integrated gradients over activations, ``eap-ig-activations`` (Marks et al. 2024, arXiv 2403.19647).

    score(w → r) = (ablated(w) − clean(w)) · 1/m Σ dL/d input(r) at stage(w) = ablated + k/m (clean − ablated),   k = 1 … m

m = ``steps``. A stage is a set of writers that write at once: the embedding, the heads of a layer, or an MLP. All writers of
a stage move together, everything else upstream of their readers stays as in the clean run, and everything downstream is run
again. Marks et al. move one node at a time, which takes a path per writer. Hanna et al. 2024 (arXiv 2403.17806) and MIB
(Mueller et al. 2025, arXiv 2504.13151) move stages, but average the gradients of all stages' paths for every edge. Here an
edge is scored along the path of its own writer's stage alone. With many steps the scores of all edges out of a stage then
add up to L(stage ablated) − L(clean).

Cost: the clean point, the end of every path, is differentiated once for all. Each other point of each of 2 layers + 1
stages takes a forward and a backward pass (layers are run again there) of the model downstream of the stage, half of the
model on average: 3 to 5 · layers · (steps − 1) forward-equivalents (180 measured at 8 layers and 5 steps). Unlike
``eap_ig_inputs``, no path leads through inputs that no prompt has. But activations of different stages never move together:
effects that appear only when writers of two stages change are missed, and the heads of a stage share the credit for their
joint effect.

Attribution from both ends, ``clean-corrupted``: the mean of the gradients in the clean and in the corrupted run.

    score(w → r) = (corrupted(w) − clean(w)) · ½ (dL/d input(r) [clean run] + dL/d input(r) [corrupted run])

This is the trapezoid rule for the path between the two runs, exact if the loss is quadratic along it (Mueller et al. 2025,
arXiv 2504.13151, compare it with integrated gradients). Two forward passes and two backward ones. Unlike ``eap`` it gives
scores for divergences from the model, through the corrupted end alone. If the metric bends only between the ends, it misses
that.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.ablation import Resample
from subcircuit.engine.gradients import Streams, UnitGradient, streams_from
from subcircuit.errors import SettingsError
from subcircuit.graph import Graph
from subcircuit.search.attribution import GradientProbe, Watch, attribute, check_differentiable, check_gradient_at_clean, summed
from subcircuit.search.journal import Journal
from subcircuit.search.memory import Footprint, of_gradients
from subcircuit.search.method import FIRST_ORDER, ScoringMethod
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, ProgressCounter


@dataclass(frozen=True)
class Eap(ScoringMethod):
    """Settings of edge attribution patching.

    Args:
        batch_size: examples at once; None chooses by memory. The result is the same.
    """

    name = "eap"
    description = "first order, at the clean run (Syed et al. 2023)"
    meaning = FIRST_ORDER

    batch_size: int | None = None

    def check(self, problem: Problem) -> None:
        """Raise the errors that ``search`` would raise for this problem."""
        check_gradient_at_clean(problem)

    def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        """First-order effects at the clean run."""
        return attribute(problem, self.batch_size, lambda probe: [probe.contrast.streams], Watch(self, 1, progress, journal))


# larger matrices are faster, and each unit's gradients are contracted with all writers once for all of these steps
STEPS_AT_ONCE = 4


@dataclass(frozen=True)
class EapIgInputs(ScoringMethod):
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
        super().__post_init__()
        check_steps(self.steps)

    def check(self, problem: Problem) -> None:
        """Raise the errors that ``search`` would raise for this problem."""
        check_path(problem, self.steps)

    def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        """Mean effects along the path of inputs."""
        model = problem.model

        def path(probe: GradientProbe) -> Iterator[Streams]:
            start, end = probe.contrast.ablated_embedding, probe.contrast.clean_embedding
            for first in range(1, self.steps, STEPS_AT_ONCE):
                steps = range(first, min(first + STEPS_AT_ONCE, self.steps))
                yield streams_from(model, probe.contrast.graph, torch.cat([start.lerp(end, step / self.steps) for step in steps]))
            yield probe.contrast.streams

        return attribute(problem, self.batch_size, path, Watch(self, self.steps, progress, journal))

    def memory(self, problem: Problem) -> Footprint:
        """Memory of gradients at several steps at once."""
        return of_gradients(problem, self.batch_size, min(STEPS_AT_ONCE, self.steps))


def check_path(problem: Problem, steps: int) -> None:
    """Check that the metric has gradients along a path of so many steps; a path of one step is the clean run alone.

    Raises:
        NoGradientError: the metric has none.
    """
    (check_differentiable if steps > 1 else check_gradient_at_clean)(problem)


def check_steps(steps: int) -> None:
    """Check that a path has at least one step.

    Raises:
        SettingsError: it has none.
    """
    if steps < 1:
        raise SettingsError(f"steps is {steps}: it must be at least 1, for example 5")


@dataclass(frozen=True)
class EapIgActivations(ScoringMethod):
    """Settings of integrated gradients over activations.

    Args:
        steps: points of each path at which gradients are taken.
        batch_size: examples at once; None chooses by memory. The result is the same.
    """

    name = "eap-ig-activations"
    description = "gradients along paths of activations (Marks et al. 2024)"
    meaning = FIRST_ORDER

    steps: int = 5
    batch_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps)

    def check(self, problem: Problem) -> None:
        """Raise the errors that ``search`` would raise for this problem."""
        check_path(problem, self.steps)

    def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        """Mean effects along the path of each edge's stage."""
        graph, paths = problem.graph, stages(problem.graph)

        def share(probe: GradientProbe, rounds: ProgressCounter) -> Float[Tensor, "writer reader"]:
            scores = torch.zeros(graph.edges.shape, dtype=torch.float64)
            for gradient in probe.gradients(probe.contrast.streams):
                effects = probe.contrast.effects(gradient).cpu()
                scores[: len(effects), list(gradient.readers)] += effects / self.steps
            rounds.done(len(probe))
            for stage in paths:
                for step in range(1, self.steps):
                    for gradient in _downstream(probe, stage, 1 - step / self.steps):
                        effects = probe.contrast.effects(gradient, stage.writers).cpu()
                        scores[stage.writers, list(gradient.readers)] += effects / self.steps
                rounds.done(len(probe))
            return scores

        return summed(problem, self.batch_size, share, Watch(self, 1 + len(paths), progress, journal))


@dataclass(frozen=True, slots=True)
class Stage:
    """Writers that write at once.

    Args:
        writers: their rows.
        first: the index of the first unit that reads them.
    """

    writers: slice
    first: int


def stages(graph: Graph) -> list[Stage]:
    """The stages of a graph in order of computation."""
    together = [[w for w in range(len(graph.writers)) if not any(w in ws for ws in graph.writers_in)]]
    together += [list(writers) for writers in graph.writers_in if writers]
    reads = graph.edges.to(torch.int8).argmax(1).tolist()
    return [Stage(slice(ws[0], ws[-1] + 1), graph.unit_of[reads[ws[0]]]) for ws in together]


def _downstream(probe: GradientProbe, stage: Stage, share: float) -> Iterator[UnitGradient]:
    """Gradients at all readers of a stage, in the run in which this share of the stage's writes is ablated."""
    contrast = probe.contrast
    moved = contrast.at_positions(share * contrast.differences[stage.writers].sum(0))
    stream = (contrast.streams[stage.first] + moved).to(contrast.model.dtype)
    streams = (*contrast.streams[: stage.first], *streams_from(contrast.model, contrast.graph, stream, stage.first))
    return islice(probe.gradients(streams), len(streams) - stage.first)


@dataclass(frozen=True)
class CleanCorrupted(ScoringMethod):
    """Settings of attribution from both ends.

    Args:
        batch_size: examples at once; None chooses by memory. The result is the same.
    """

    name = "clean-corrupted"
    description = "gradients in the clean and the corrupted run"
    meaning = FIRST_ORDER

    batch_size: int | None = None

    def check(self, problem: Problem) -> None:
        """Raise the errors that ``search`` would raise for this problem."""
        check_differentiable(problem)
        if not isinstance(problem.ablation, Resample):
            raise SettingsError(
                "clean-corrupted takes gradients in the run of the corrupted prompts, which only resample ablation uses: choose resample "
                "ablation, or eap or eap-ig-inputs with this ablation."
            )

    def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        """Mean effects over both ends."""

        def ends(probe: GradientProbe) -> Iterator[Streams]:
            yield probe.contrast.streams
            yield streams_from(problem.model, probe.contrast.graph, probe.contrast.ablated_embedding)

        return attribute(problem, self.batch_size, ends, Watch(self, 2, progress, journal))
