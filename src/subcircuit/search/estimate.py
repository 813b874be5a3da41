"""What a search will cost, before it runs: its method runs small parts of it and measures them (``Method.cost``).

Peak memory is that of the parts that were run, and where they were run on fewer examples, what more of them add (``Method.memory``).
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
from subcircuit.search.result import time_forward


@dataclass(frozen=True)
class Estimate:
    """What a search will cost.

    Args:
        method: its name.
        edges: of the graph.
        seconds: of the search in one process, without loading.
        forward_seconds: one plain forward pass over the prompts.
        trials: circuits that are evaluated; None for methods that score all edges together.
        kept: edges that stay, roughly; None for methods of which that is asked for.
        seen: the share of the edges that it is judged by.
        memory: what takes memory at the peak.
        peak: bytes of the process at the peak; of tensors alone on an accelerator, and where a process's cannot be told.
        cost: seconds that it took to know.
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
    problem: Problem, settings: Method | MethodClass | str, learning: LearnOptimal | None = None, patience: float = 60.0
) -> Estimate:
    """Predict what a search will cost.

    Args:
        problem: as the search will be given it.
        settings: of the method, or its name.
        learning: how constants are learned before the search; until then those of the behaviour stand in for them.
        patience: seconds after which ``acdc`` is judged by what has been seen.

    Raises:
        SettingsError: the method does not go with the metric or the ablation.
        NumericalError: a loss or score is NaN or infinite.
    """
    began, method = perf_counter(), method_of(settings)
    method.check(problem)
    with peak_memory(problem.model.device) as peak:
        forward = median(time_forward(problem))
        learned = 0.0 if learning is None else _learning(problem, learning)
        found = method.cost(problem, patience)
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
    """Seconds of learning constants, going by a few steps."""
    short = replace(config, steps=min(STEPS, config.steps))
    return seconds_of(lambda: learn_optimal(problem, short)) * config.steps / short.steps
