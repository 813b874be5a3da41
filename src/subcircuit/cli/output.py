"""Output of a command that makes a run: its directory, the run that it continues, and its printed form."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subcircuit.runs.spec import Spec
    from subcircuit.search import Discovery
    from subcircuit.search.journal import Journal


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

    def run(
        self,
        directory: Path,
        spec: "Spec",
        identity: Mapping[str, Any],
        work: "Callable[[Journal], None]",
        say: Callable[[str], None],
    ) -> None:
        """Start or resume the work of a run with its journal.

        Args:
            identity: digests of the spec's model and prompts.
            work: writes its results into the directory.
            say: called with a line about reused work.

        Raises:
            RunError, Stopped: as ``run_in``.
        """
        from subcircuit.runs import fork, run_in

        recorded = spec.recorded()
        if self.source is not None:
            say(f"{fork(self.source, directory, recorded, identity):,} units of work reused from {self.source}")
        run_in(directory, recorded, identity, work)


def save_found(result: "Discovery", directory: Path) -> None:
    """Write the result of a search into its run: circuit, pictures, and the path of a refinement."""
    from subcircuit.report import save_picture, write_path

    result.circuit.save(directory)
    save_picture(result.circuit, directory)
    if result.path is not None:
        write_path(result.path, result.circuit, directory)
