"""Searches whose workers die or hang, and a journal in memory that sees what is recorded."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import sleep

import torch

from subcircuit.graph import Graph
from subcircuit.model import Transformer
from subcircuit.runs.pool_journal import ScheduleClient, WorkerJournal
from subcircuit.search import METHODS, Problem
from subcircuit.search.journal import FORGETFUL, Journal, Under
from tests.problems import random_problem


class Kept:
    """A journal in memory."""

    leaving = False

    def __init__(self):
        self.results: dict[str, bytes] = {}

    def recall(self, key: str) -> bytes | None:
        return self.results.get(key)

    def record(self, key: str, result: bytes) -> None:
        assert key not in self.results, "nothing is kept twice"
        self.results[key] = result


class Patient(Kept):
    """A journal whose process waits at first until all workers are there."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def recall(self, key: str) -> bytes | None:
        while len(list(self.folder.iterdir())) < 2:
            sleep(0.1)
        return super().recall(key)


def search(name: str, problem: Problem, journal: Journal = FORGETFUL) -> torch.Tensor:
    method = METHODS[name](**({} if name == "acdc" else {"batch_size": 1}))
    found = method.search(problem, journal=Under(journal, "part"))
    return torch.stack([found.circuit.kept, found.scores])


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.nan_to_num(9), b.nan_to_num(9))


def problem_of(model: Transformer) -> Problem:
    return random_problem(model, Graph.of(model.config), 3, [5, 4, 5], 1, "logit_difference", "resample")


def at_worst(problem: Problem, folder: str, journal: Journal = FORGETFUL) -> torch.Tensor:
    """Searches in which one worker is killed at a unit of its own, and another stops for good."""
    if isinstance(journal, WorkerJournal):
        Path(folder, f"{journal.worker}-{os.getpid()}").touch()
        fatal = {1: signal.SIGKILL, 2: signal.SIGSTOP}[journal.worker]
        journal = WorkerJournal(Failing(journal.schedule, lambda: os.kill(os.getpid(), fatal), claims=2), journal.worker)
    found = [search(name, problem, Under(journal, name)) for name in ("exact", "acdc")]
    return torch.cat([values.flatten() for values in found])


@dataclass
class Failing:
    """The schedule as a worker sees it that fails when it has taken units ahead or recorded so many results."""

    schedule: ScheduleClient
    fail: Callable[[], None]
    claims: int = 10**6
    records: int = 10**6

    def claim(self, worker: int, keys: Sequence[str]) -> str | None:
        mine = self.schedule.claim(worker, keys)
        self.claims -= mine is not None
        if self.claims < 1:
            self.fail()
        return mine

    def recall(self, worker: int, key: str) -> bytes | None:
        return self.schedule.recall(worker, key)

    def record(self, worker: int, key: str, result: bytes) -> None:
        self.records -= 1
        if self.records < 0:
            self.fail()
        self.schedule.record(worker, key, result)

    def release(self, worker: int, key: str) -> None:
        self.schedule.release(worker, key)

    def leave(self, worker: int) -> None:
        self.schedule.leave(worker)
