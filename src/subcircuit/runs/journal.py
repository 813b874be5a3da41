"""The journal of a search in SQLite: every unit of work with its result and a checksum of both.

Rollback journal and ``synchronous=FULL``: a transaction that was reported as done is on the disk, and one that was cut
short by a crash or a power failure never happened. Results are collected for a short while and written together, as
each transaction waits for the disk: a crash costs that while and the unit that was at work.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from time import monotonic

from subcircuit.errors import RunError
from subcircuit.runs.stop import Stop

JOURNAL_FILE = "journal.sqlite"
FORMAT = 1
SECONDS_BETWEEN = 1.0
_MOST_WAITING = 1 << 26  # bytes
_TABLES = """
create table about (name text primary key, value text not null) without rowid;
create table work (key text primary key, result blob not null, checksum text not null) without rowid;
"""


class SqliteJournal:
    """The journal of one run; fits ``search.Journal``.

    Args:
        path: of the database, which ``create`` made.
        stop: tells whether the user asked to stop; the journal then saves its results and raises ``KeyboardInterrupt``.

    Raises:
        RunError: the journal is damaged; the message names the damage, and nothing is used.
    """

    def __init__(self, path: Path, stop: Stop | None = None):
        self.path, self._stop = path, stop or Stop()
        self._database = _connect(path)
        damaged = list(self.damaged())
        if damaged:
            self._database.close()
            raise RunError(
                f"{path} is damaged: {damaged[0]}. None of it was used; resume with --fork DIR to reuse the intact results."
            )
        self._waiting: dict[str, bytes] = {}
        self._written = monotonic()

    @staticmethod
    def create(path: Path, run_file: str) -> None:
        """Make an empty journal.

        Args:
            run_file: the digest of the ``run.json`` that it belongs to.
        """
        with _failures(path):
            database = _connect(path, "rwc")
            database.executescript(_TABLES)
            database.execute("begin immediate")
            database.execute("insert into about values ('format', ?), ('run.json', ?)", (str(FORMAT), run_file))
            database.execute("commit")
            database.close()

    @property
    def leaving(self) -> bool:
        """Somebody asked to stop."""
        return self._stop.asked

    def recall(self, key: str) -> bytes | None:
        """The result of a unit; None where it was not worked out yet."""
        if key in self._waiting:
            return self._waiting[key]
        with _failures(self.path):
            row = self._database.execute("select result, checksum from work where key = ?", (key,)).fetchone()
        if row is not None and _checksum(key, row[0]) != row[1]:
            raise RunError(f"{self.path} is damaged: the result of {key!r} has changed since it was written. It was not used.")
        return None if row is None else row[0]

    def record(self, key: str, result: bytes) -> None:
        """Keep a result.

        Raises:
            KeyboardInterrupt: somebody asked to stop; all results are on the disk.
            RunError: the disk is full or fails; what was written before is intact.
        """
        self._waiting[key] = result
        size = sum(map(len, self._waiting.values()))
        if self.leaving or size > _MOST_WAITING or monotonic() - self._written >= SECONDS_BETWEEN:
            self.write()
        self._stop.leave()

    def write(self) -> None:
        """Put everything on the disk that waits to be written."""
        rows = [(key, result, _checksum(key, result)) for key, result in self._waiting.items()]
        with _failures(self.path), self._transaction():
            self._database.executemany("insert or replace into work values (?, ?, ?)", rows)
        self._waiting.clear()
        self._written = monotonic()

    def close(self) -> None:
        """Release the database; what waits is not written."""
        self._database.close()

    def take_over(self, other: Path) -> int:
        """Copy the intact results of another journal; returns how many."""
        source, taken = _connect(other), 0
        with _failures(self.path), self._transaction():
            try:
                for key, result, checksum in source.execute("select key, result, checksum from work"):
                    if _checksum(key, result) == checksum:
                        self._database.execute("insert or replace into work values (?, ?, ?)", (key, result, checksum))
                        taken += 1
            except sqlite3.DatabaseError:
                pass  # what comes after the damage cannot be read; what came before it is good
            finally:
                source.close()
        return taken

    @staticmethod
    def count(path: Path) -> int:
        """How many units of work are on the disk."""
        database = _connect(path)
        try:
            with _failures(path):
                return database.execute("select count(*) from work").fetchone()[0]
        finally:
            database.close()

    def about(self, name: str) -> str | None:
        """A fact that was written when the journal was made."""
        with _failures(self.path):
            row = self._database.execute("select value from about where name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def damaged(self) -> Iterator[str]:
        """What is not as it was written, one line each."""
        try:
            for (words,) in self._database.execute("pragma integrity_check"):
                if words != "ok":
                    yield " ".join(words.split())
                    return
            version = self._database.execute("select value from about where name = 'format'").fetchone()
            if version != (str(FORMAT),):
                yield f"format {version and version[0]}, expected {FORMAT}"
            for key, result, checksum in self._database.execute("select key, result, checksum from work"):
                if not isinstance(result, bytes) or _checksum(key, result) != checksum:
                    yield f"the result of {key!r} is not what was written"
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            yield str(error)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("begin immediate")
        try:
            yield
            self._database.execute("commit")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("rollback")
            raise


def _connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=30)
        database.execute("pragma journal_mode = delete")
        database.execute("pragma synchronous = full")
    except sqlite3.Error as error:
        raise RunError(f"{path} is missing or damaged: {error}") from None
    return database


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise RunError(
            f"{path} cannot be read or written: {error}. Earlier results are intact: free disk space, then resume the run."
        ) from None


def _checksum(key: str, result: bytes) -> str:
    return sha256(key.encode() + b"\0" + result).hexdigest()
