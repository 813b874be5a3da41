"""Commands whose work is kept as it goes: what of their options is recorded, and how they begin and go on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subcircuit.search import Discovery
    from subcircuit.search.journal import Journal

_PLACES = ("model", "task", "path")


@dataclass(frozen=True)
class Begun:
    """A run to go on with, or one to begin with what another has worked out.

    Args:
        directory: of the run.
        forked: the other one.
    """

    directory: Path
    forked: Path | None = None


def directory_for(begun: Begun | None, out: Path | None, task: str, model: str) -> Path:
    """Where the run is, or where a new one may be written: see ``new_directory``."""
    from subcircuit.report import new_directory

    return new_directory(out, task, model) if begun is None else begun.directory


def keep(
    asked: Mapping[str, Any],
    found: Mapping[str, Any],
    place: tuple[Path, Begun | None],
    work: "Callable[[Journal], None]",
    say: Callable[[str], None],
) -> None:
    """Do a command's work with a journal, from where it was.

    Args:
        asked: the command's options, and its name as ``command``.
        found: digests of what they are applied to.
        place: the run's directory, and how it was begun.
        work: writes its results into that directory.
        say: told what is taken over.

    Raises:
        RunError, Stopped: as ``run_in``.
    """
    from subcircuit.runs import fork, run_in

    kept, (directory, begun) = recorded(asked), place
    if begun is not None and begun.forked is not None:
        say(f"{fork(begun.forked, directory, kept, found):,} units of work taken over from {begun.forked}")
    run_in(directory, kept, found, work)


def save_found(result: "Discovery", directory: Path) -> None:
    """Write what a search found into its run: circuit, pictures, and of a refinement the path."""
    from subcircuit.report import save_picture, write_path

    result.circuit.save(directory)
    save_picture(result.circuit, directory)
    if result.path is not None:
        write_path(result.path, result.circuit, directory)


def recorded(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options as a run keeps them: of paths the last part alone, for runs are shown to others."""
    where = {name: _last_part(asked[name]) for name in _PLACES if asked.get(name) is not None}
    return {**asked, **where, "out": None}


def _last_part(name: str | Path) -> str:
    is_path = isinstance(name, Path) or Path(name).expanduser().exists() or name.startswith((".", "~", "/"))
    return Path(name).resolve().name if is_path else str(name)
