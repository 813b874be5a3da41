"""The directory of a run: reading, checking, listing and forking it.

run.json         options, and digests of what they were applied to; written once
journal.sqlite   every unit of work that is done
checksums.json   SHA-256 of every file, written last: where it is, the run is done
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from subcircuit.errors import NumericalError, RunError, Stopped, SubcircuitError
from subcircuit.io import digest_of, flush, write_directory, write_json
from subcircuit.runs.journal import JOURNAL_FILE, SqliteJournal
from subcircuit.runs.lock import LOCK_FILE, is_locked, locked
from subcircuit.runs.stop import stoppable

RUN_FILE = "run.json"
CHECKSUMS_FILE = "checksums.json"
FORMAT = 1
_LARGEST = 1 << 24
# these change how a result is come by or shown, and not the result
_FREE = ("out", "json", "device", "workers", "ray")
# these say where something can be found again; other digests say what it is
_LOCATING = ("model_files", "prompt_file")


@dataclass(frozen=True)
class Listed:
    """A run in a listing: ``done``, ``running`` or ``stopped``, its options, and how many units of work are on the disk."""

    path: Path
    state: str
    asked: Mapping[str, Any]
    units: int


def run_in(directory: Path, asked: Mapping[str, Any], found: Mapping[str, Any], work: Callable[[SqliteJournal], None]) -> Path:
    """Begin a run, or go on with it, and finish it.

    Args:
        directory: a new or empty one, or that of a run with the same options.
        asked: the options, as JSON values.
        found: their ``identity``.
        work: searches with the journal, and writes its results into the directory.

    Raises:
        RunError: damaged, in use, or of other options: the message has the difference; or it cannot be written.
        Stopped: Ctrl-C; the message says how to go on.
    """
    if (directory / RUN_FILE).exists():
        _work(directory, asked, found, work)
        return directory
    new = [parent for parent in directory.absolute().parents if not parent.exists()]
    _begin(directory, asked, found)
    try:
        _work(directory, asked, found, work)
    except BaseException as error:
        if not _worth_keeping(directory, error):
            _remove(directory, new)
            if isinstance(error, Stopped):
                raise Stopped("stopped; nothing was written") from None
        raise
    return directory


def _worth_keeping(directory: Path, error: BaseException) -> bool:
    """Whether a run that failed as it began can go on: there are results, and it was not refused."""
    refused = isinstance(error, SubcircuitError) and not isinstance(error, RunError | NumericalError)
    return not refused and SqliteJournal.count(directory / JOURNAL_FILE) > 0


def _remove(directory: Path, parents: Sequence[Path]) -> None:
    """Take a run away, and the directories that were made for it."""
    shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):
        for parent in parents:
            parent.rmdir()


def _work(directory: Path, asked: Mapping[str, Any], found: Mapping[str, Any], work: Callable[[SqliteJournal], None]) -> None:
    try:
        with locked(directory), stoppable(f"stopped; to go on: subcircuit resume {directory}") as stop:
            _check_same(directory, asked, found)
            journal = SqliteJournal(directory / JOURNAL_FILE, stop)
            try:
                work(journal)
                journal.write()
            except Exception:
                journal.write()
                raise
            finally:
                journal.close()
            _finish(directory)
    except OSError as error:
        raise RunError(
            f"{directory} cannot be written: {error.strerror or error}. What was written before is intact: make room, then "
            f"subcircuit resume {directory}"
        ) from None


def read_run(directory: Path) -> dict[str, Any]:
    """The options and the identity of a run.

    Raises:
        RunError: there is none, or ``run.json`` is not what was written.
    """
    file = directory / RUN_FILE
    try:
        if file.stat().st_size > _LARGEST:
            raise RunError(f"{file} is larger than any run's description")
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{directory} holds no run: there is no {RUN_FILE}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} is damaged: {error}. Nothing was touched.") from None
    parts = ("asked", "found")
    if not isinstance(content, dict) or "format" not in content or any(not isinstance(content.get(p), dict) for p in parts):
        raise RunError(f"{file} is damaged: it does not describe a run. Nothing was touched.")
    if content["format"] != FORMAT:
        raise RunError(f"{file}: format {content['format']!r} is not one that this version reads ({FORMAT}): upgrade subcircuit")
    return content


def fork(old: Path, new: Path, asked: Mapping[str, Any], found: Mapping[str, Any]) -> int:
    """Begin a run that takes over what it can use of another; returns how many units of work."""
    _begin(new, asked, found)
    if _binding(read_run(old)["found"]) != _binding(found):
        return 0
    journal = SqliteJournal(new / JOURNAL_FILE)
    try:
        return journal.take_over(old / JOURNAL_FILE)
    finally:
        journal.close()


def damage(directory: Path) -> list[str]:
    """What of a run is not as it was written, one line each; nothing is changed."""
    try:
        read_run(directory)
    except RunError as error:
        return [str(error)]
    file = directory / CHECKSUMS_FILE
    try:
        sums = json.loads(file.read_bytes()) if file.exists() else None
    except (OSError, ValueError, RecursionError) as error:
        return [f"{file} is damaged: {error}"]
    found = []
    if sums is not None:
        if not isinstance(sums, dict) or sums.pop("checksum", None) != _checksum(sums):
            return [f"{file} is not what was written"]
        for name, expected in sums.items():
            path = directory / name
            if not path.is_file():
                found.append(f"{path} is missing")
            elif digest_of(path) != expected:
                found.append(f"{path} is not what was written")
        return found
    try:
        _check_journal(directory)
    except RunError as error:
        found.append(str(error))
    return found


def list_runs(parent: Path) -> list[Listed]:
    """The runs in a directory, by name; what is not one is left out."""
    return [run for path in sorted(parent.iterdir()) if (run := listed(path)) is not None] if parent.is_dir() else []


def listed(path: Path) -> Listed | None:
    """The run in a directory; None where there is none."""
    try:
        asked = read_run(path)["asked"]
    except RunError:
        return None
    state = "done" if (path / CHECKSUMS_FILE).exists() else "running" if is_locked(path) else "stopped"
    try:
        units = SqliteJournal.count(path / JOURNAL_FILE)
    except RunError:
        state, units = "damaged", 0
    return Listed(path, state, asked, units)


def _begin(directory: Path, asked: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """The directory appears with its description and an empty journal, or not at all."""

    def fill(temporary: Path) -> None:
        write_json(temporary / RUN_FILE, {"format": FORMAT, "asked": dict(asked), "found": dict(found)}, allow_nan=True)
        SqliteJournal.create(temporary / JOURNAL_FILE, digest_of(temporary / RUN_FILE))

    try:
        write_directory(directory, fill)
    except OSError as error:
        raise RunError(f"{directory} cannot be written: {error.strerror or error}") from None


def _check_same(directory: Path, asked: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    _check_journal(directory)
    before = read_run(directory)
    lines = [*_differences(_bound(before["asked"]), _bound(asked)), *_differences(_binding(before["found"]), _binding(found))]
    if lines:
        shown = "; ".join(lines)
        raise RunError(
            f"{directory} was begun with something else: {shown}. Resume it as it was, or begin another with --fork DIR."
        )


def _check_journal(directory: Path) -> None:
    journal = SqliteJournal(directory / JOURNAL_FILE)
    try:
        if journal.about(RUN_FILE) != digest_of(directory / RUN_FILE):
            raise RunError(
                f"{directory / RUN_FILE} is not what was written: the journal belongs to another. Nothing was touched."
            )
    finally:
        journal.close()


def _bound(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if name not in _FREE}


def _binding(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in _LOCATING}


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [f"{name} was {_short(before.get(name))}, is {_short(after.get(name))}" for name in names]


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def _finish(directory: Path) -> None:
    names = sorted(file.name for file in directory.iterdir() if file.is_file() and not file.name.startswith("."))
    for name in names:
        flush(directory / name)
    sums = {name: digest_of(directory / name) for name in names if name not in (LOCK_FILE, CHECKSUMS_FILE)}
    write_json(directory / CHECKSUMS_FILE, {**sums, "checksum": _checksum(sums)})


def _checksum(sums: Mapping[str, str]) -> str:
    return sha256(json.dumps(dict(sums), sort_keys=True).encode()).hexdigest()
