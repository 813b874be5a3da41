"""The directory of a run: reading, checking and forking it.

run.json         spec, and digests of its model and prompts; written once
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
from subcircuit.runs.lock import LOCK_FILE, locked
from subcircuit.runs.spec import Spec, differences, upgraded
from subcircuit.runs.stop import stoppable

RUN_FILE = "run.json"
CHECKSUMS_FILE = "checksums.json"
FORMAT = 2
_LARGEST = 1 << 24
# these say where something can be found again; other digests say what it is
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


def run_in(directory: Path, spec: Spec, identity: Mapping[str, Any], work: Callable[[SqliteJournal], None]) -> Path:
    """Start or resume a run, and finish it.

    Args:
        directory: a new or empty one, or that of a run with the same spec.
        spec: what the run is asked for, as it is recorded.
        identity: digests of the spec's model and prompts, see ``identity``.
        work: searches with the journal, and writes its results into the directory.

    Raises:
        RunError: the run is damaged, in use, or has another spec or identity (the message has the difference), or it cannot be
            written.
        Stopped: Ctrl-C; the message says how to go on.
    """
    if (directory / RUN_FILE).exists():
        _work(directory, spec, identity, work)
        return directory
    new = [parent for parent in directory.absolute().parents if not parent.exists()]
    _begin(directory, spec, identity)
    try:
        _work(directory, spec, identity, work)
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


def _work(directory: Path, spec: Spec, identity: Mapping[str, Any], work: Callable[[SqliteJournal], None]) -> None:
    try:
        with locked(directory), stoppable(f"stopped; to go on: subcircuit resume {directory}") as stop:
            _check_same(directory, spec, identity)
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


def read_run(directory: Path) -> RunFile:
    """The spec and the identity of a run.

    Raises:
        RunError: there is no run, or ``run.json`` is damaged or of a newer version.
    """
    file = directory / RUN_FILE
    try:
        if file.stat().st_size > _LARGEST:
            raise RunError(f"{file} is larger than any run's description")
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{directory} holds no run: there is no {RUN_FILE}") from None
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
    """Start a run with the work of another that it can use; returns the number of units of work taken over."""
    _begin(new, spec, identity)
    if _binding(read_run(old).identity) != _binding(identity):
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


def _begin(directory: Path, spec: Spec, identity: Mapping[str, Any]) -> None:
    """The directory appears with its description and an empty journal, or not at all."""

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
            f"{directory} was started with something else: {shown}. Resume it unchanged, or start another run with --fork DIR."
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
