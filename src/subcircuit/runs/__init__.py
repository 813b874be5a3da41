"""Runs: directories with a spec, a journal and a result, which survive interruption; and the pool of processes that share one."""

from subcircuit.runs.folder import RunFile, damage, fork, read_run, run_in
from subcircuit.runs.identity import identity
from subcircuit.runs.journal import SqliteJournal
from subcircuit.runs.listing import Listed, list_runs, listed
from subcircuit.runs.lock import is_locked
from subcircuit.runs.progress import ProgressFile, RunProgress, read_progress
from subcircuit.runs.sources import is_same_model, model_source, run_sources, task_source
from subcircuit.runs.spec import DiscoverSpec, RefineSpec, Search, Spec, StabilitySpec, SweepSpec, ValidateSpec, ZoomSpec

__all__ = [
    "DiscoverSpec",
    "Listed",
    "ProgressFile",
    "RefineSpec",
    "RunFile",
    "RunProgress",
    "Search",
    "Spec",
    "SqliteJournal",
    "StabilitySpec",
    "SweepSpec",
    "ValidateSpec",
    "ZoomSpec",
    "damage",
    "fork",
    "identity",
    "is_locked",
    "is_same_model",
    "list_runs",
    "listed",
    "model_source",
    "read_progress",
    "read_run",
    "run_in",
    "run_sources",
    "task_source",
]
