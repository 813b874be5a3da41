"""Runs on disk that survive: whatever was worked out once is kept, checked and taken up again."""

from subcircuit.runs.folder import Listed, damage, fork, list_runs, listed, read_run, run_in
from subcircuit.runs.identity import identity
from subcircuit.runs.journal import SqliteJournal
from subcircuit.runs.lock import is_locked
from subcircuit.runs.progress import Beacon, Glimpse, glimpse
from subcircuit.runs.sources import begun_with, is_same_model, model_source, task_source

__all__ = [
    "Beacon",
    "Glimpse",
    "Listed",
    "SqliteJournal",
    "begun_with",
    "damage",
    "fork",
    "glimpse",
    "identity",
    "is_locked",
    "is_same_model",
    "list_runs",
    "listed",
    "model_source",
    "read_run",
    "run_in",
    "task_source",
]
