"""Searches against known circuits: how well a method's ranking, or its circuits, tell true edges and nodes from the rest.

A method that ranks edges is judged at every one of its scores; ACDC is run once for each of many thresholds, a method that
decides without a threshold once. What each recovers is measured as ``recovery.py`` says, for edges, for nodes, and for edges with
the inputs of heads counted beside them, as ACDC's authors do (Conmy et al. 2023, arXiv 2304.14997).

Where a case is redundant its circuit holds edges that stand in for each other, and whoever finds one of them is right. An
edge is needed where cutting it alone worsens the case's own metric; true edges that are not needed count neither way.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any, TypeAlias

import torch
from jaxtyping import UInt8
from pydantic import ConfigDict, TypeAdapter
from torch import Tensor

from subcircuit.engine import Ablation
from subcircuit.entry import entry
from subcircuit.errors import NoGradientError, SettingsError, SubcircuitError
from subcircuit.evaluate.recovery import Part, Recovery, recovery, recovery_of_circuits
from subcircuit.graph import By, Circuit
from subcircuit.search import Exact, Method, OnProgress, Problem, Result, method_of, search_at
from subcircuit.search.journal import FORGETFUL, Journal, Under, each
from subcircuit.search.method import MethodClass
from subcircuit.tasks import Metric, metric
from subcircuit.truth import Case

# from below what float32 can tell to above what any metric of a case can lose, two a decade
FINE: tuple[float, ...] = tuple(10 ** (power / 2) for power in range(-12, 5))
# large graphs: small thresholds keep many edges, and each of them costs
COARSE: tuple[float, ...] = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_LARGE = 2000
# features of compiled and planted models are 1 or fractions like 1/5: what matters, matters by more
_NEEDED = 1e-3
# methods that pay for every edge, or for hundreds of steps
SLOW = ("acdc", "exact", "hybrid", "subnetwork-probing", "edge-pruning", "ugs")


@dataclass(frozen=True)
class Conditions:
    """What searches of a table share.

    Args:
        metric: to search with; None is that of each case.
        by: how scores are ranked. The true edges of a case help and hinder, so their size counts.
        thresholds: of ACDC, one circuit each; None chooses by the size of the graph.
        most_edges: of a graph that slow methods are given; None for any number.
    """

    metric: Metric | None = None
    by: By = "absolute"
    thresholds: tuple[float, ...] | None = None
    most_edges: int | None = None

    def __post_init__(self) -> None:
        if self.thresholds == ():
            raise SettingsError("thresholds is empty: give at least one, for example 0.01")


@dataclass(frozen=True, eq=False)
class Validation:
    """What a search recovered of a known circuit.

    Args:
        case, method, ablation, metric: names.
        direction: from which end the method searched; None of methods that have none.
        redundant: the case has edges that stand in for each other, which count neither way.
        true_edges: of the whole circuit, those that stand in for each other among them.
        edges, inputs, nodes: recovered; ``inputs`` are edges with the inputs of heads beside them. None where all of them
            are true, and there is nothing to tell apart.
        missed, wrong: of the best circuit: true edges that it lacks, and edges that it has and that are not true.
        seconds: of the search; for ACDC of all thresholds together.
        note: why the numbers say nothing; empty where they do.
    """

    case: str
    method: str
    ablation: str
    metric: str
    direction: str | None
    redundant: bool
    true_edges: int
    edges: Recovery
    inputs: Recovery | None
    nodes: Recovery | None
    missed: tuple[str, ...]
    wrong: tuple[str, ...]
    seconds: float
    note: str = ""

    def __repr__(self) -> str:
        return f"Validation({self.method} on {self.case}, {self.ablation} ablation, {self.metric}: {self.edges}; {self.seconds:.1f} s)"


@dataclass(frozen=True)
class Refusal:
    """A search that was not made, and why.

    Args:
        metric: None where the case itself cannot be had.
        no_gradient: the metric has no gradient where the method takes one.
    """

    case: str
    method: str
    ablation: str
    metric: str | None
    note: str
    no_gradient: bool = False


Attempt: TypeAlias = Validation | Refusal
_ATTEMPTS: TypeAdapter[Attempt] = TypeAdapter(Attempt, config=ConfigDict(ser_json_inf_nan="constants"))

Found: TypeAlias = dict[float | None, Result]
"""What a method says: scores or a circuit, under None; or a circuit for each threshold."""


@entry
def validate(
    case: Case,
    settings: Method | MethodClass | str,
    conditions: Conditions | None = None,
    on_step: OnProgress | None = None,
    journal: Journal = FORGETFUL,
) -> Validation:
    """Search a case's model, and compare with its circuit.

    Args:
        case: model, task, ablation and truth.
        settings: of the method, or its name; of one with a threshold its own is not used.
        conditions: metric and ranking.
        on_step: progress of the search.
        journal: remembers the search's units of work.

    Raises:
        SettingsError: the method does not go with metric or ablation, the metric with the case, or the method is slow and
            the graph too large for it.
        NumericalError: a score or loss is NaN or infinite.
    """
    conditions, method = conditions or Conditions(), method_of(settings)
    problem = case_problem(case, conditions.metric)
    method.check(problem)
    _check_size(method.name, case, conditions.most_edges)
    thresholds = conditions.thresholds or (FINE if case.graph.n_edges <= _LARGE else COARSE)
    found = search_at(method, problem, thresholds, on_step, journal)
    known = needed(case) if case.redundant else case.circuit
    ranked = next(iter(found.values())).ranked
    edges, inputs, nodes = _recovered(case, known, found, ranked, conditions.by)
    best = _circuit_at(found, edges.best[0], ranked, conditions.by)
    return Validation(
        case=case.name,
        method=method.name,
        ablation=case.ablation.name,
        metric=problem.metric.name,
        direction=getattr(method, "direction", None),
        redundant=case.redundant,
        true_edges=case.circuit.n_edges,
        edges=edges,
        inputs=inputs,
        nodes=nodes,
        missed=tuple(known.difference(best).names),
        wrong=tuple(best.difference(case.circuit).names),
        seconds=sum(one.seconds for one in found.values()),
        note="all edges score alike" if ranked and len(edges.overlaps) == 1 else "",
    )


def validate_all(
    cases: Mapping[str, Callable[[Ablation], Case]],
    ablations: Sequence[Ablation],
    methods: Sequence[Method | MethodClass | str],
    conditions: Conditions | None = None,
    on_start: Callable[[str], None] | None = None,
    on_step: OnProgress | None = None,
    journal: Journal = FORGETFUL,
) -> Iterator[Attempt]:
    """Every method on every case under every ablation; what does not go together is told and not raised.

    Args:
        cases: by name, how they are had.
        ablations, methods: the ablations, and the methods, as settings or by name.
        conditions: metric and ranking.
        on_start: told what begins.
        on_step: progress of each search.
        journal: remembers each attempt, and the units of work of the one that is being made.
    """
    asked, say = conditions or Conditions(), on_start or (lambda message: None)
    searches = [method_of(one) for one in methods]
    places = [(name, make, ablation) for (name, make), ablation in product(cases.items(), ablations)]

    @lru_cache(maxsize=1)
    def case_of(place: int) -> Case | str:
        name, make, ablation = places[place]
        say(f"{name}, {ablation.name} ({place + 1} of {len(places)})")
        return _made(make, ablation)

    def attempt(unit: tuple[int, Method]) -> Tensor:
        place, method = unit
        name, _, ablation = places[place]
        made = case_of(place)
        if isinstance(made, Case):
            part = Under(journal, _attempt_key(name, ablation, method, asked))
            return _packed(_attempt(made, method, asked, on_step, part))
        return _packed(Refusal(name, method.name, ablation.name, None, made))

    units = [
        (_attempt_key(name, ablation, method, asked), (place, method))
        for place, (name, _, ablation) in enumerate(places)
        for method in searches
    ]
    yield from map(_unpacked, each(journal, units, attempt))


def _attempt_key(name: str, ablation: Ablation, method: Method, conditions: Conditions) -> str:
    # metrics hold functions, whose representation is another one in every process
    told = replace(conditions, metric=None), conditions.metric and conditions.metric.name
    return f"{name}/{ablation.name}/{method}/{told}"


def validations(*asked: Any, **how: Any) -> tuple[Attempt, ...]:
    """`validate_all` to its end."""
    return tuple(validate_all(*asked, **how))


def _made(make: Callable[[Ablation], Case], ablation: Ablation) -> Case | str:
    """A case, or why it cannot be had."""
    try:
        return make(ablation)
    except SubcircuitError as error:
        return str(error)


def _packed(attempt: Attempt) -> UInt8[Tensor, " byte"]:
    """An attempt as the result of a unit of work: JSON, in which floats are told to the last bit."""
    return torch.frombuffer(bytearray(_ATTEMPTS.dump_json(attempt)), dtype=torch.uint8)


def _unpacked(packed: UInt8[Tensor, " byte"]) -> Attempt:
    return _ATTEMPTS.validate_json(packed.numpy().tobytes())


def case_problem(case: Case, measured: Metric | None = None) -> Problem:
    """A case as a search takes it, by its own metric where no other is given."""
    return Problem(case.model, case.graph, case.task, measured or metric(case.task.metric), case.ablation)


@entry
def needed(case: Case) -> Circuit:
    """The true edges that nothing stands in for: cutting one of them alone worsens the case's own metric."""
    effects = Exact().search(case_problem(case)).scores
    return Circuit(case.graph, case.circuit.kept & (effects > _NEEDED))


def _attempt(case: Case, method: Method, conditions: Conditions, on_step: OnProgress | None, journal: Journal) -> Attempt:
    try:
        return validate(case, method, conditions, on_step, journal)
    except SubcircuitError as error:
        metric_name = conditions.metric.name if conditions.metric else case.task.metric
        return Refusal(
            case.name,
            method.name,
            case.ablation.name,
            metric_name,
            str(error),
            isinstance(error, NoGradientError),
        )


def _check_size(method: str, case: Case, most_edges: int | None) -> None:
    if method in SLOW and most_edges is not None and case.graph.n_edges > most_edges:
        raise SettingsError(
            f"{method} is slow on {case.graph.n_edges:,} edges, so it is not run among all cases: choose {case.name} alone"
        )


def _circuit_at(found: Found, threshold: float, ranked: bool, by: By) -> Circuit:
    """The edges that count at a threshold."""
    if not ranked:
        return next(one.circuit for at, one in found.items() if _label(at) == threshold)
    graph, values = found[None].graph, found[None].scores.double()
    return Circuit(graph, graph.edges & ((values.abs() if by == "absolute" else values) >= threshold))


def _label(threshold: float | None) -> float:
    """Of a circuit: its threshold, 0 where there is none."""
    return threshold or 0.0


def _recovered(
    case: Case, known: Circuit, found: Found, ranked: bool, by: By
) -> tuple[Recovery, Recovery | None, Recovery | None]:
    """Edges, edges and inputs, nodes."""

    def of(part: Part) -> Recovery:
        if ranked:
            return recovery(known, found[None].scores, part, by, case.circuit)
        return recovery_of_circuits(known, [(_label(at), one.circuit) for at, one in found.items()], part, case.circuit)

    def unless_all(part: Part) -> Recovery | None:
        # in a small model every node may be a true one
        with suppress(SettingsError):
            return of(part)
        return None

    return of("edges"), unless_all("edges and inputs"), unless_all("nodes")
