"""Progress of a run on disk, for the viewer: ``.live/`` in its directory, written every few seconds and removed at the end.

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

from subcircuit.io import write_text

if TYPE_CHECKING:
    # whoever searches has them already; a list of runs does not wait for torch
    from subcircuit.graph import Circuit
    from subcircuit.search import Progress

PROGRESS_FOLDER = ".live"
SECONDS_BETWEEN = 2.0
# of the time that a search takes, at most one part in so many goes into its view
_SHARE = 20
_NOW, _CIRCUITS = "now.json", ("a", "b")
_LARGEST = 1 << 16


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run.

    Args:
        share: share of the work of the phase that is done; None if it cannot be predicted.
        words: how far the run is, and what is found so far.
        circuit: name of the directory that holds the circuit so far.
    """

    share: float | None
    words: str
    circuit: str


class ProgressFile:
    """Writes the progress of a run, at most every few seconds.

    Args:
        directory: of the run.
        begin: the circuit before the first step.
        words: a step in words.
    """

    def __init__(self, directory: Path, begin: "Circuit", words: "Callable[[Progress], str]"):
        self._folder, self._words, self._circuit = directory / PROGRESS_FOLDER, words, begin
        self._turns = cycle(_CIRCUITS)
        self._next = 0.0
        self._show(None, "")

    def step(self, step: "Progress") -> None:
        """Write the progress after a step, if it is time; fits ``discover``'s ``on_step``."""
        words = self._words(step)
        if monotonic() < self._next:
            return
        if step.circuit is not None:
            self._circuit = step.circuit()
        self._show(step.share, words)

    def end(self) -> None:
        """Remove the progress: the run is done, and its result is there."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _show(self, share: float | None, words: str) -> None:
        began, progress = monotonic(), RunProgress(share, words, next(self._turns))
        # a disk that is full is the journal's business
        with suppress(OSError):
            self._circuit.save(self._folder / progress.circuit)
            write_text(self._folder / _NOW, json.dumps(asdict(progress)))
        now = monotonic()
        self._next = now + max(SECONDS_BETWEEN, _SHARE * (now - began))


def read_progress(directory: Path) -> tuple[RunProgress, Path] | None:
    """The progress of a run that is not done, and the directory of its circuit so far; None where there is none."""
    folder = directory / PROGRESS_FOLDER
    try:
        if (folder / _NOW).stat().st_size > _LARGEST:
            return None
        content: Any = json.loads((folder / _NOW).read_bytes())
        share = None if content["share"] is None else float(content["share"])
        found = RunProgress(share, str(content["words"]), str(content["circuit"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return (found, folder / found.circuit) if found.circuit in _CIRCUITS else None
