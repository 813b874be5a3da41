"""Output of a command that makes a run: its directory, the run that it continues, and its printed form."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Output:
    """Output of a command.

    Args:
        out: directory of a new run; None chooses a free one.
        json: print one JSON object instead of tables.
        resumed: directory of a run to resume; None starts one.
        source: directory of another run whose work the new run reuses.
    """

    out: Path | None = None
    json: bool = False
    resumed: Path | None = None
    source: Path | None = None

    def directory(self, task: str, model: str) -> Path:
        """The directory of the run; a new one is not created yet (see ``new_directory``)."""
        from subcircuit.report import new_directory

        return new_directory(self.out, task, model) if self.resumed is None else self.resumed
