"""Runs on disk that survive: whatever was worked out once is kept, checked and taken up again."""

from subcircuit.runs.folder import Listed, damage, fork, list_runs, read_run, run_in
from subcircuit.runs.identity import identity
from subcircuit.runs.journal import SqliteJournal

__all__ = ["Listed", "SqliteJournal", "damage", "fork", "identity", "list_runs", "read_run", "run_in"]
