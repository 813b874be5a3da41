"""Runs on disk that survive: whatever was worked out once is kept, checked and taken up again."""

from subcircuit.runs.beacon import Beacon, Glimpse, glimpse
from subcircuit.runs.folder import Listed, damage, fork, list_runs, listed, read_run, run_in
from subcircuit.runs.identity import identity
from subcircuit.runs.journal import SqliteJournal
from subcircuit.runs.lock import is_locked

__all__ = [
    "Beacon",
    "Glimpse",
    "Listed",
    "SqliteJournal",
    "damage",
    "fork",
    "glimpse",
    "identity",
    "is_locked",
    "list_runs",
    "listed",
    "read_run",
    "run_in",
]
