"""Computations of the viewer: each runs once, one at a time, and requested ones before measurements ahead of time."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from threading import Lock
from typing import TypeAlias

from subcircuit.errors import SettingsError
from subcircuit.evaluate.measure import Ends
from subcircuit.report.page import (
    STEPS_PER_PROMPT,
    PrefixRuns,
    Ranking,
    Shown,
    measured_document,
    page_document,
    prompts_document,
)
from subcircuit.report.page.arrays import Json
from subcircuit.search import Problem

# of attention patterns: they stay on this machine
MOST_BYTES = 16_000_000
# a measurement is seen to go on, and can give way, so many times
STEPS = 4

Read: TypeAlias = Callable[[], Sequence[Shown]]
Probe: TypeAlias = Callable[[int, Shown], Problem]


class _GaveWayError(Exception):
    """A measurement ahead of time stopped because a requested computation waits."""


@dataclass
class _Steps:
    """A journal that stores nothing: it counts the steps of a measurement, and stops it when another has priority.

    Args:
        work: receives the progress of the measurement.
        gives_way: returns whether to stop the measurement.
    """

    work: Json
    gives_way: Callable[[], bool]
    leaving: bool = False

    def recall(self, key: str) -> None:
        """Nothing; called before each step."""
        if self.gives_way():
            raise _GaveWayError

    def record(self, key: str, result: bytes) -> None:
        """Called after each step."""
        self.work["done"] += 1


@dataclass
class Computations:
    """The current circuits on disk, and the measurements of them.

    Args:
        read: returns the circuits; called again when they have changed.
        version: returns a value that changes when the circuits do.
        probe: loads the model of a circuit, given with its number, at its first measurement.
    """

    read: Read
    version: Callable[[], str]
    probe: Probe
    _state: tuple[str, list[Shown], list[Ranking]] | None = None
    _problems: dict[int, Problem] = field(default_factory=dict)
    _ends: dict[tuple[str, int], Ends] = field(default_factory=dict)
    _done: dict[tuple[str, ...], Json] = field(default_factory=dict)
    _reading: Lock = field(default_factory=Lock)
    _computing: Lock = field(default_factory=Lock)
    _counting: Lock = field(default_factory=Lock)
    _waited_for: int = 0
    _work: Json | None = None

    def document(self) -> Json:
        """The page's document, with the version of its circuits.

        Raises:
            CircuitFileError: a circuit can no longer be read.
            GraphError: the circuits are of different graphs.
        """
        version, circuits, rankings = self._current()
        return {**page_document(circuits, rankings), "version": version}

    def work(self) -> Json | None:
        """The current computation in words, and the number of its steps that are done; None if nothing runs."""
        return self._work

    def prompts(self, circuit: int) -> Json:
        """Prompts with their effects and patterns.

        Raises:
            SubcircuitError: there is no such circuit, or its model or prompts cannot be had.
        """
        version, circuits, rankings = self._current()
        with self._turn(ahead=False):
            _, ranking, problem = self._of(circuit, circuits, rankings)
            steps = STEPS_PER_PROMPT * len(problem.task)
            self._work = {"words": "effects and attention, prompt by prompt", "done": 0, "total": steps}
            return self._once(
                (version, "prompts", str(circuit)),
                lambda: prompts_document(problem, ranking, MOST_BYTES, self._let_others),
            )

    def measure(self, circuit: int, edges: int, kept_only: bool, ahead: bool = False) -> Json:
        """The largest circuit up to a number of edges, measured on the prompts of its problem, with all sizes measured so far.

        Args:
            ahead: whether to measure ahead of time. Such a measurement stops when a requested computation waits, and its size is
                then not among the points.

        Raises:
            SubcircuitError: there is no such circuit, or its model or prompts cannot be had.
        """
        version, circuits, rankings = self._current()
        with self._turn(ahead):
            _, ranking, problem = self._of(circuit, circuits, rankings)
            count = ranking.nearest(edges, kept_only)
            of = (version, "measure", str(circuit), str(kept_only))
            pace = self._pace(problem, self._ends.setdefault((version, circuit), {}), f"measuring {count:,} edges", ahead)
            try:
                found = self._once(
                    (*of, str(count)),
                    lambda: measured_document(problem, ranking, [count], kept_only, pace),
                )
            except _GaveWayError:
                return {"points": self._points(of)}
            return {**found, "points": self._points(of)}

    def _points(self, of: tuple[str, ...]) -> list[Json]:
        found = [point for key, answer in self._done.items() if key[: len(of)] == of for point in answer["points"]]
        return sorted(found, key=lambda point: point["edges"])

    def _pace(self, problem: Problem, ends: Ends, words: str, ahead: bool) -> PrefixRuns:
        prompts = len(problem.task)
        batch = ceil(prompts / STEPS)
        self._work = {"words": words, "done": 0, "total": ceil(prompts / batch)}
        return PrefixRuns(batch, _Steps(self._work, lambda: ahead and self._waited_for > 0), ends)

    @contextmanager
    def _turn(self, ahead: bool) -> Iterator[None]:
        """One computation at a time; others see whether somebody waits for one."""
        self._wait(0 if ahead else 1)
        try:
            with self._computing:
                self._work = {"words": "loading the model"}
                try:
                    yield
                finally:
                    self._work = None
        finally:
            self._wait(0 if ahead else -1)

    def _let_others(self) -> None:
        """A step of something long: whoever waits has a turn before it goes on."""
        work = self._work
        if self._waited_for > 1:
            self._computing.release()
            # long enough for the others to take the lock
            time.sleep(0.02)
            self._computing.acquire()
        if work is not None:
            self._work = {**work, "done": work["done"] + 1}

    def _wait(self, step: int) -> None:
        with self._counting:
            self._waited_for += step

    def _current(self) -> tuple[str, list[Shown], list[Ranking]]:
        # its own lock: the page comes at once, even while something is being measured
        with self._reading:
            version = self.version()
            if self._state is None or self._state[0] != version:
                circuits = list(self.read())
                self._state = (version, circuits, [shown.ranking() for shown in circuits])
            return self._state

    def _of(self, circuit: int, circuits: Sequence[Shown], rankings: Sequence[Ranking]) -> tuple[Shown, Ranking, Problem]:
        if not 0 <= circuit < len(circuits):
            raise SettingsError(f"there is no circuit number {circuit}: the page shows {len(circuits)}, numbered from 0")
        if circuit not in self._problems:
            self._problems[circuit] = self.probe(circuit, circuits[circuit])
        return circuits[circuit], rankings[circuit], self._problems[circuit]

    def _once(self, key: tuple[str, ...], compute: Callable[[], Json]) -> Json:
        if key not in self._done:
            self._done = {known: answer for known, answer in self._done.items() if known[0] == key[0]}
            self._ends = {known: ends for known, ends in self._ends.items() if known[0] == key[0]}
            self._done[key] = compute()
        return self._done[key]
