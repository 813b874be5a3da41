"""What the viewer computes when it is asked: each thing once, one after the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeAlias

from subcircuit.errors import SettingsError
from subcircuit.report.page import Probed, Ranking, Shown, measured_document, page_document, prompts_document
from subcircuit.report.page.packed import Json

# of attention patterns: they stay on this machine
MOST_BYTES = 16_000_000

Read: TypeAlias = Callable[[], Sequence[Shown]]
Probe: TypeAlias = Callable[[int, Shown], Probed]


@dataclass
class Bench:
    """Circuits as they are on disk now, and what has been measured of them.

    Args:
        read: the circuits; called again when they have changed.
        version: changes when the circuits do.
        probe: loads the model of a circuit, given with its number, when something is first measured.
    """

    read: Read
    version: Callable[[], str]
    probe: Probe
    _state: tuple[str, list[Shown], list[Ranking]] | None = None
    _probed: dict[int, Probed] = field(default_factory=dict)
    _done: dict[tuple[str, ...], Json] = field(default_factory=dict)
    _reading: Lock = field(default_factory=Lock)
    _computing: Lock = field(default_factory=Lock)

    def document(self) -> Json:
        """The page's document, with the version that it shows.

        Raises:
            CircuitFileError: a circuit cannot be read any more.
            GraphError: they are of different graphs.
        """
        version, circuits, rankings = self._current()
        return {**page_document(circuits, rankings), "version": version}

    def prompts(self, circuit: int) -> Json:
        """Prompts with their effects and patterns.

        Raises:
            SubcircuitError: there is no such circuit, or its model or prompts cannot be had.
        """
        version, circuits, rankings = self._current()
        with self._computing:
            shown, ranking, probed = self._of(circuit, circuits, rankings)
            return self._once(
                (version, "prompts", str(circuit)),
                lambda: prompts_document(probed.model, shown.circuit, ranking, probed.behaviour, MOST_BYTES),
            )

    def measure(self, circuit: int, edges: int, kept_only: bool) -> Json:
        """The circuit of the first so many edges, measured on the prompts of the search.

        Raises:
            SubcircuitError: there is no such circuit, or its model or prompts cannot be had.
        """
        version, circuits, rankings = self._current()
        with self._computing:
            shown, ranking, probed = self._of(circuit, circuits, rankings)
            count = min(edges, ranking.count(kept_only))
            return self._once(
                (version, "measure", str(circuit), str(count), str(kept_only)),
                lambda: measured_document(probed.model, shown.circuit.graph, probed.behaviour, ranking, [count], kept_only),
            )

    def _current(self) -> tuple[str, list[Shown], list[Ranking]]:
        # its own lock: the page comes at once, even while something is being measured
        with self._reading:
            version = self.version()
            if self._state is None or self._state[0] != version:
                circuits = list(self.read())
                self._state = (version, circuits, [Ranking.of(shown.circuit) for shown in circuits])
            return self._state

    def _of(self, circuit: int, circuits: Sequence[Shown], rankings: Sequence[Ranking]) -> tuple[Shown, Ranking, Probed]:
        if not 0 <= circuit < len(circuits):
            raise SettingsError(f"there is no circuit {circuit}: {len(circuits)} are shown, counted from 0")
        if circuit not in self._probed:
            self._probed[circuit] = self.probe(circuit, circuits[circuit])
        return circuits[circuit], rankings[circuit], self._probed[circuit]

    def _once(self, key: tuple[str, ...], compute: Callable[[], Json]) -> Json:
        if key not in self._done:
            self._done = {known: answer for known, answer in self._done.items() if known[0] == key[0]}
            self._done[key] = compute()
        return self._done[key]
