"""Search methods side by side: found on one set of prompts, judged on another.

Methods that rank edges give a curve of ten sizes each (`curves.py`); ACDC gives a circuit for each of several
thresholds. Faithfulness is always that on the evaluation prompts.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from pydantic import TypeAdapter

from subcircuit.engine.memory import peak_memory
from subcircuit.entry import entry
from subcircuit.evaluate.curves import Curve, CurvePoint, curve, points_of
from subcircuit.evaluate.faithfulness import check_gap
from subcircuit.evaluate.measure import measure
from subcircuit.graph import By
from subcircuit.search import Acdc, Discovery, EdgeScores, OnProgress, Problem, acdc, method_of, method_settings
from subcircuit.search.journal import FORGETFUL, Journal, Under, alone

THRESHOLDS = (0.5, 0.1, 0.02)


@dataclass(frozen=True, eq=False)
class Contender:
    """One method of a sweep.

    Args:
        method: its name.
        points: by ascending number of edges.
        curve: the points as a curve, for methods that rank edges; None for ACDC, whose points are circuits of their own.
        seconds, forward_seconds: of the search (all thresholds together), and of one plain forward pass beside it.
        peak_memory: bytes, the model included; None where it cannot be told.
        notes: numbers that the method alone reports.
    """

    method: str
    points: tuple[CurvePoint, ...]
    curve: Curve | None
    seconds: float
    forward_seconds: float
    peak_memory: int | None
    notes: Mapping[str, float]

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

    def check(self, methods: Sequence[Any]) -> None:
        """The methods can run, and faithfulness is defined on the evaluation prompts: asked before anything takes long.

        Args:
            methods: their settings.

        Raises:
            SettingsError: a method does not go with the metric or the ablation, or faithfulness is undefined.
        """
        for settings in methods:
            method_of(settings).check(self.found_on)
        check_gap(measure(self.judged_on, [], self.batch_size))

    def run(self, settings: Any, on_step: OnProgress | None = None, journal: Journal = FORGETFUL) -> Contender:
        """Search with one method, and judge what it found.

        Args:
            settings: of the method; ACDC's own threshold is not used.
            on_step: progress of the search.
            journal: remembers what was worked out, and of a finished method all numbers, what it cost among them.
        """
        name = method_of(settings).name
        part = Under(journal, name)
        own = alone(part)
        known = own.recall("contender")
        if known is not None:
            return _CONTENDERS.validate_python(json.loads(known))
        contender = self._run(name, settings, on_step, part)
        own.record("contender", json.dumps(_CONTENDERS.dump_python(contender)).encode())
        return contender

    def _run(self, name: str, settings: Any, on_step: OnProgress | None, journal: Journal) -> Contender:
        graph = self.judged_on.graph
        with peak_memory(self.found_on.model.device) as peak:
            search = self._circuits if isinstance(settings, Acdc) else self._scores
            found = search(settings, on_step, journal)
        if isinstance(found, EdgeScores):
            ranked = curve(self.judged_on, found.values, self.by, self.batch_size, journal)
            return Contender(name, ranked.points, ranked, found.seconds, found.forward_seconds, peak.size, found.notes)
        circuits = sorted((result.circuit for result in found), key=lambda circuit: circuit.n_edges)
        sizes = [(100 * circuit.n_edges / graph.n_edges, circuit.n_edges) for circuit in circuits]
        points = points_of(self.judged_on, circuits, sizes, self.batch_size, journal)
        seconds = sum(result.seconds for result in found)
        return Contender(name, points, None, seconds, median(result.forward_seconds for result in found), peak.size, {})

    def _scores(self, settings: Any, on_step: OnProgress | None, journal: Journal) -> EdgeScores:
        return method_of(settings).search(self.found_on, settings, on_step, journal)

    def _circuits(self, settings: Acdc, on_step: OnProgress | None, journal: Journal) -> list[Discovery]:
        each = [(replace(settings, threshold=t), Under(journal, f"threshold {t}")) for t in self.thresholds]
        return [acdc(self.found_on, config, on_step, part) for config, part in each]


@entry
def contend(
    contest: Contest,
    methods: Sequence[Any],
    on_start: Callable[[str], None] | None = None,
    on_step: OnProgress | None = None,
    journal: Journal = FORGETFUL,
) -> list[Contender]:
    """Every method of a sweep, one after the other.

    Args:
        methods: their settings.
        on_start: told what begins.
        on_step: progress of each search.
        journal: remembers what was worked out.
    """
    contenders = list[Contender]()
    methods = [method_settings(settings) for settings in methods]
    for number, settings in enumerate(methods, 1):
        if on_start is not None:
            on_start(f"{method_of(settings).name} ({number} of {len(methods)})")
        contenders.append(contest.run(settings, on_step, journal))
    return contenders
