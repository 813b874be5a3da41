"""Search methods side by side: found on one set of prompts, judged on another.

Methods that rank edges give a curve of ten sizes each (`curves.py`); those that decide themselves a circuit, ACDC one for each of
several thresholds. Faithfulness is always that on the evaluation prompts.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pydantic import TypeAdapter

from subcircuit.engine.memory import peak_memory
from subcircuit.entry import entry
from subcircuit.evaluate.curves import PERCENTAGES, Curve, CurvePoint, curve, points_of
from subcircuit.evaluate.faithfulness import check_gap
from subcircuit.evaluate.measure import Ends, measure, runs_of
from subcircuit.graph import By
from subcircuit.search import Method, OnProgress, Problem, ProgressCounter, method_of, search_at
from subcircuit.search.journal import FORGETFUL, Journal, Under, alone
from subcircuit.search.method import MethodClass

THRESHOLDS = (0.5, 0.1, 0.02)


@dataclass(frozen=True, eq=False)
class Contender:
    """One method of a sweep.

    Args:
        method: its name.
        points: by ascending number of edges.
        curve: the points as a curve, for methods that rank edges; None for the others, whose points are circuits of their own.
        seconds, forward_seconds: of the search (all thresholds together), and of one plain forward pass beside it.
        peak_memory: bytes, the model included; None where it cannot be told.
        notes: numbers and words that the method alone reports.
    """

    method: str
    points: tuple[CurvePoint, ...]
    curve: Curve | None
    seconds: float
    forward_seconds: float
    peak_memory: int | None
    notes: Mapping[str, float | str]

    def __repr__(self) -> str:
        judged = f"{len(self.points)} circuits" if self.curve is None else str(self.curve)
        return f"Contender({self.method}: {judged}; {self.seconds:.1f} s)"

    @property
    def forward_equivalents(self) -> float:
        """Cost of the search in units of one plain forward pass."""
        return self.seconds / self.forward_seconds

    def kl_at(self, percent: float) -> float | None:
        """Mean KL(model ‖ circuit) in nats at a size of the curve."""
        points = () if self.curve is None else self.curve.points
        return next((point.kl for point in points if point.percent == percent), None)


_CONTENDERS = TypeAdapter(Contender)


@dataclass(frozen=True, eq=False)
class Contest:
    """The conditions that all methods of a sweep share.

    Args:
        found_on, judged_on: the same problem on different prompts.
        by: how scores are ranked.
        thresholds: of ACDC, one circuit each.
        batch_size: prompts that run together when circuits are judged.
    """

    found_on: Problem
    judged_on: Problem
    by: By = "signed"
    thresholds: tuple[float, ...] = THRESHOLDS
    batch_size: int = 16

    def check(self, methods: Sequence[Method]) -> None:
        """The methods can run, and faithfulness is defined on the evaluation prompts: asked before anything takes long.

        Raises:
            SettingsError: a method does not go with the metric or the ablation, or faithfulness is undefined.
        """
        for method in methods:
            method.check(self.found_on)
        check_gap(measure(self.judged_on, [], self.batch_size))

    def run(
        self,
        method: Method,
        on_step: OnProgress | None = None,
        journal: Journal = FORGETFUL,
        ends: Ends | None = None,
    ) -> Contender:
        """Search with one method, and judge what it found.

        Args:
            method: of one with a threshold its own is not used.
            on_step: progress of the search and of the measurements.
            journal: remembers what was worked out, and of a finished method all numbers, what it cost among them.
            ends: as in `measure_all`, of the evaluation prompts.
        """
        part = Under(journal, method.name)
        own = alone(part)
        known = own.recall("contender")
        if known is not None:
            return _CONTENDERS.validate_python(json.loads(known))
        contender = self._run(method, on_step, part, ends)
        own.record("contender", json.dumps(_CONTENDERS.dump_python(contender)).encode())
        return contender

    def _run(self, method: Method, on_step: OnProgress | None, journal: Journal, ends: Ends | None) -> Contender:
        with peak_memory(self.found_on.model.device) as peak:
            found = list(search_at(method, self.found_on, self.thresholds, on_step, journal).values())
        cost = sum(one.seconds for one in found), median(one.forward_seconds for one in found), peak.size
        if found[0].ranked:
            runs = self._runs(len(PERCENTAGES), on_step)
            ranked = curve(self.judged_on, found[0].scores, self.by, self.batch_size, journal, runs, ends)
            return Contender(method.name, ranked.points, ranked, *cost, found[0].notes)
        circuits = sorted((one.circuit for one in found), key=lambda circuit: circuit.n_edges)
        sizes = [(100 * circuit.n_edges / circuit.graph.n_edges, circuit.n_edges) for circuit in circuits]
        runs = self._runs(len(circuits), on_step)
        points = points_of(self.judged_on, circuits, sizes, self.batch_size, journal, runs, ends)
        return Contender(method.name, points, None, *cost, {})

    def _runs(self, circuits: int, on_step: OnProgress | None) -> ProgressCounter:
        """Counts the runs that measure circuits on the evaluation prompts."""
        return ProgressCounter(runs_of(len(self.judged_on.task), circuits), on_step, phase="measure")


@entry
def contend(
    contest: Contest,
    methods: Sequence[Method | MethodClass | str],
    on_start: Callable[[str], None] | None = None,
    on_step: OnProgress | None = None,
    journal: Journal = FORGETFUL,
) -> list[Contender]:
    """Every method of a sweep, one after the other.

    Args:
        methods: settings or names.
        on_start: told what begins.
        on_step: progress of each search.
        journal: remembers what was worked out.
    """
    contenders = list[Contender]()
    ends: Ends = {}
    for number, method in enumerate(map(method_of, methods), 1):
        if on_start is not None:
            on_start(f"{method.name} ({number} of {len(methods)})")
        contenders.append(contest.run(method, on_step, journal, ends))
    return contenders
