"""The directory of a run: reading, checking and forking it.

run.json         spec, and digests of its model and prompts; written once
journal.sqlite   every finished unit of work
checksums.json   SHA-256 of every file, written last; a run with this file is done
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from subcircuit.errors import NumericalError, RunError, Stopped, SubcircuitError
from subcircuit.io import digest_of, flush, write_directory, write_json
from subcircuit.runs.journal import JOURNAL_FILE, SqliteJournal
from subcircuit.runs.lock import LOCK_FILE, locked
from subcircuit.runs.spec import Spec, differences, upgraded
from subcircuit.runs.stop import stoppable

T = TypeVar("T")
RUN_FILE = "run.json"
CHECKSUMS_FILE = "checksums.json"
FORMAT = 2
_LARGEST = 1 << 24
# digests for finding files again; the other digests identify the content
_LOCATING = ("model_files", "prompt_file")


@dataclass(frozen=True)
class RunFile:
    """The content of ``run.json``.

    Args:
        fields: the fields of the spec, as the file has them.
        identity: digests of the spec's model and prompts.
    """

    fields: dict[str, Any]
    identity: dict[str, Any]

    @property
    def spec(self) -> Spec:
        """The spec.

        Raises:
            SettingsError: a field is missing, unknown or of the wrong type.
        """
        return Spec.parse(self.fields)


def run_in(directory: Path, spec: Spec, identity: Mapping[str, Any], work: Callable[[SqliteJournal], T]) -> T:
    """Start or resume a run, and finish it; returns the result of its work.

    Args:
        directory: a new or empty one, or that of a run with the same spec.
        spec: the options of the run, as recorded.
        identity: digests of the spec's model and prompts, see ``identity``.
        work: searches with the journal, and writes its results into the directory.

    Raises:
        RunError: the run is damaged, in use, or has another spec or identity (the message has the difference), or it cannot be
            written.
        Stopped: Ctrl-C; the message has the command to resume.
    """
    if (directory / RUN_FILE).exists():
        return _work(directory, spec, identity, work)
    new = [parent for parent in directory.absolute().parents if not parent.exists()]
    _begin(directory, spec, identity)
    try:
        return _work(directory, spec, identity, work)
    except BaseException as error:
        if not _worth_keeping(directory, error):
            _remove(directory, new)
            if isinstance(error, Stopped):
                raise Stopped("stopped; nothing was written") from None
        raise


def _worth_keeping(directory: Path, error: BaseException) -> bool:
    """Whether a new run that failed can be resumed: it has results, and the error is not a refusal."""
    refused = isinstance(error, SubcircuitError) and not isinstance(error, RunError | NumericalError)
    return not refused and SqliteJournal.count(directory / JOURNAL_FILE) > 0


def _remove(directory: Path, parents: Sequence[Path]) -> None:
    """Delete a run, and the directories that were made for it."""
    shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):
        for parent in parents:
            parent.rmdir()


def _work(directory: Path, spec: Spec, identity: Mapping[str, Any], work: Callable[[SqliteJournal], T]) -> T:
    try:
        with locked(directory), stoppable(f"stopped; resume with: subcircuit resume {directory}") as stop:
            _check_same(directory, spec, identity)
            journal = SqliteJournal(directory / JOURNAL_FILE, stop)
            try:
                result = work(journal)
                journal.write()
            except Exception:
                journal.write()
                raise
            finally:
                journal.close()
            _finish(directory)
            return result
    except OSError as error:
        raise RunError(
            f"{directory} cannot be written: {error.strerror or error}. Earlier results are intact: free disk space, then run "
            f"subcircuit resume {directory}"
        ) from None


def read_run(directory: Path) -> RunFile:
    """The spec and the identity of a run.

    Raises:
        RunError: there is no run, or ``run.json`` is damaged or of a newer version.
    """
    file = directory / RUN_FILE
    try:
        if file.stat().st_size > _LARGEST:
            raise RunError(f"{file} is larger than the limit of {_LARGEST >> 20} MB for the description of a run")
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{directory} is not a run: it has no {RUN_FILE}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} is damaged: {error}. Nothing was changed.") from None
    known = {1: ("asked", "found"), FORMAT: ("spec", "identity")}
    form = content.get("format") if isinstance(content, dict) else None
    if isinstance(form, int) and form > FORMAT:
        raise RunError(f"{file} has format {form}, and this version reads formats up to {FORMAT}: upgrade subcircuit")
    fields, identity = (content.get(name) for name in known[form]) if isinstance(form, int) and form in known else (None, None)
    if not isinstance(fields, dict) or not isinstance(identity, dict):
        raise RunError(f"{file} is damaged: it does not describe a run. Nothing was changed.")
    return RunFile(upgraded(fields) if form == 1 else fields, identity)


def fork(old: Path, new: Path, spec: Spec, identity: Mapping[str, Any]) -> int:
    """Start a run that reuses the work of another; returns the number of reused units of work."""
    _begin(new, spec, identity)
    if _binding(read_run(old).identity) != _binding(identity):
        return 0
    journal = SqliteJournal(new / JOURNAL_FILE)
    try:
        return journal.take_over(old / JOURNAL_FILE)
    finally:
        journal.close()


def damage(directory: Path) -> list[str]:
    """The damaged or changed files of a run, one line each; nothing is changed."""
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
            return [f"{file} has changed since it was written"]
        for name, expected in sums.items():
            path = directory / name
            if not path.is_file():
                found.append(f"{path} is missing")
            elif digest_of(path) != expected:
                found.append(f"{path} has changed since it was written")
        return found
    try:
        _check_journal(directory)
    except RunError as error:
        found.append(str(error))
    return found


def _begin(directory: Path, spec: Spec, identity: Mapping[str, Any]) -> None:
    """Create the directory with its description and an empty journal, or nothing."""

    def fill(temporary: Path) -> None:
        write_json(temporary / RUN_FILE, {"format": FORMAT, "spec": spec.model_dump(mode="json"), "identity": dict(identity)})
        SqliteJournal.create(temporary / JOURNAL_FILE, digest_of(temporary / RUN_FILE))

    try:
        write_directory(directory, fill)
    except OSError as error:
        raise RunError(f"{directory} cannot be written: {error.strerror or error}") from None


def _check_same(directory: Path, spec: Spec, identity: Mapping[str, Any]) -> None:
    _check_journal(directory)
    before = read_run(directory)
    lines = [*before.spec.differences(spec), *differences(_binding(before.identity), _binding(identity))]
    if lines:
        shown = "; ".join(lines)
        raise RunError(
            f"{directory} has other options or inputs: {shown}. Resume it without changes, or start a new run with --fork DIR."
        )


def _check_journal(directory: Path) -> None:
    journal = SqliteJournal(directory / JOURNAL_FILE)
    try:
        if journal.about(RUN_FILE) != digest_of(directory / RUN_FILE):
            raise RunError(
                f"{directory / RUN_FILE} has changed since it was written: the journal belongs to another one. Nothing was changed."
            )
    finally:
        journal.close()


def _binding(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name not in _LOCATING}


def _finish(directory: Path) -> None:
    names = sorted(file.name for file in directory.iterdir() if file.is_file() and not file.name.startswith("."))
    for name in names:
        flush(directory / name)
    sums = {name: digest_of(directory / name) for name in names if name not in (LOCK_FILE, CHECKSUMS_FILE)}
    write_json(directory / CHECKSUMS_FILE, {**sums, "checksum": _checksum(sums)})


def _checksum(sums: Mapping[str, str]) -> str:
    return sha256(json.dumps(dict(sums), sort_keys=True).encode()).hexdigest()
