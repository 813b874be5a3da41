"""How far a run is, for whoever looks on: ``.live/`` in its directory, written now and then, gone when the run is done.

now.json    the last step in numbers and words, and which of the two circuits goes with it
a/, b/      the circuit so far and the one before it: who still reads the older one is not disturbed

It is a view and not a record: no search reads it, and nothing of it has to survive.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from subcircuit.io import write_whole

if TYPE_CHECKING:
    # whoever searches has them already; a list of runs does not wait for torch
    from subcircuit.graph import Circuit
    from subcircuit.search import Refining, Round, Step

LIVE_FOLDER = ".live"
SECONDS_BETWEEN = 2.0
# of the time that a search takes, at most one part in so many goes into its view
_SHARE = 20
_NOW, _CIRCUITS = "now.json", ("a", "b")
_LARGEST = 1 << 16


@dataclass(frozen=True)
class Glimpse:
    """How far a run is.

    Args:
        done, total: of what its method counts.
        words: the same for people.
        circuit: the name of the directory in which the circuit so far is.
    """

    done: int
    total: int
    words: str
    circuit: str


class Beacon:
    """Shows how far a run is; its state is what it showed last, and when.

    Args:
        directory: of the run.
        begin: the circuit before the first step.
        words: what is said of a step.
    """

    def __init__(self, directory: Path, begin: "Circuit", words: "Callable[[Step | Round | Refining], str]"):
        self._folder, self._words, self._circuit = directory / LIVE_FOLDER, words, begin
        self._turns = cycle(_CIRCUITS)
        self._next = 0.0
        self._show(0, 0, "")

    def step(self, step: "Step | Round | Refining") -> None:
        """Take a step into account; fits ``discover``'s ``on_step``."""
        from subcircuit.search import Round

        words = self._words(step)
        if monotonic() < self._next:
            return
        if not isinstance(step, Round):
            self._circuit = step.circuit()
        self._show(step.done, step.total, words)

    def end(self) -> None:
        """The run is done: its result is there to be looked at."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _show(self, done: int, total: int, words: str) -> None:
        began, glimpse = monotonic(), Glimpse(done, total, words, next(self._turns))
        # a disk that is full is the journal's business
        with suppress(OSError):
            self._circuit.save(self._folder / glimpse.circuit)
            text = json.dumps(asdict(glimpse))
            write_whole(self._folder / _NOW, lambda file: file.write_text(text, encoding="utf-8"))
        now = monotonic()
        self._next = now + max(SECONDS_BETWEEN, _SHARE * (now - began))


def glimpse(directory: Path) -> tuple[Glimpse, Path] | None:
    """How far a run is that is not done, and where its circuit so far lies; None where nothing is shown."""
    folder = directory / LIVE_FOLDER
    try:
        if (folder / _NOW).stat().st_size > _LARGEST:
            return None
        content: Any = json.loads((folder / _NOW).read_bytes())
        found = Glimpse(int(content["done"]), int(content["total"]), str(content["words"]), str(content["circuit"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return (found, folder / found.circuit) if found.circuit in _CIRCUITS else None
