"""The cost of a search before it runs: its method runs and measures small parts of it (``Method.cost``).

Peak memory is measured on those parts. If they ran on fewer examples, the memory of the others is added (``Method.memory``).
"""

from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter

from subcircuit.engine.memory import peak_memory
from subcircuit.entry import entry
from subcircuit.search.cost import STEPS, seconds_of
from subcircuit.search.memory import Footprint
from subcircuit.search.method import Method, MethodClass
from subcircuit.search.methods import method_of
from subcircuit.search.optimal import LearnOptimal, learn_optimal
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, ProgressCounter
from subcircuit.search.result import time_forward


@dataclass(frozen=True)
class Estimate:
    """The predicted cost of a search.

    Args:
        method: the method's name.
        edges: number of edges of the graph.
        seconds: seconds of the search in one process, without loading.
        forward_seconds: seconds of one plain forward pass over the prompts.
        trials: number of circuits to evaluate; None for methods that score all edges together.
        kept: approximate number of edges that stay; None for methods that do not predict it.
        seen: share of the edges on which the prediction is based.
        memory: parts of the peak memory.
        peak: bytes of the process at the peak; of tensors alone on an accelerator, or where a process's peak cannot be measured.
        cost: seconds that the estimate took.
    """

    method: str
    edges: int
    seconds: float
    forward_seconds: float
    trials: int | None
    kept: int | None
    seen: float
    memory: Footprint
    peak: int
    cost: float

    @property
    def forward_equivalents(self) -> float:
        """Cost in units of one plain forward pass."""
        return self.seconds / self.forward_seconds


@entry
def estimate(
    problem: Problem,
    settings: Method | MethodClass | str,
    learning: LearnOptimal | None = None,
    patience: float = 60.0,
    on_step: OnProgress | None = None,
) -> Estimate:
    """The predicted cost of a search.

    Args:
        problem: the problem of the search.
        settings: settings of the method, or its name.
        learning: how constants are learned before the search; the estimate uses the problem's own ablation in their place.
        patience: seconds after which ``acdc`` is extrapolated from the part that was outlined.
        on_step: called at the beginning and at the end. How long the parts take is what the estimate finds out.

    Raises:
        SettingsError: the method is incompatible with the metric or the ablation.
        NumericalError: a loss or score is NaN or infinite.
    """
    began, method = perf_counter(), method_of(settings)
    method.check(problem)
    parts = ProgressCounter(None, on_step, "", "estimate")
    parts.done(0)
    with peak_memory(problem.model.device) as peak:
        forward = median(time_forward(problem))
        learned = 0.0 if learning is None else _learning(problem, learning)
        found = method.cost(problem, patience)
    parts.done(1)
    whole = method.memory(problem)
    run = whole if found.ran is problem else method.memory(found.ran)
    highest = whole.total if peak.size is None else peak.size + max(0, whole.total - run.total)
    return Estimate(
        method=method.name,
        edges=problem.graph.n_edges,
        seconds=learned + found.seconds,
        forward_seconds=forward,
        trials=found.trials,
        kept=found.kept,
        seen=found.seen,
        memory=whole,
        peak=highest,
        cost=perf_counter() - began,
    )


def _learning(problem: Problem, config: LearnOptimal) -> float:
    """Seconds of learning constants, extrapolated from a few steps."""
    short = replace(config, steps=min(STEPS, config.steps))
    return seconds_of(lambda: learn_optimal(problem, short)) * config.steps / short.steps
