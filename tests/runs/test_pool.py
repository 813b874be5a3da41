"""However many processes work, whatever becomes of them, the result is that of one, to the last bit."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socketpair
from threading import Event, Thread
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import NumericalError, SettingsError
from subcircuit.evaluate import discover, measure
from subcircuit.graph import Circuit
from subcircuit.model.weights import map_tensors
from subcircuit.runs.pool import Pool
from subcircuit.runs.pool_journal import LeaderJournal, Schedule, WorkerJournal
from subcircuit.runs.pool_local import _serve, _Worker
from subcircuit.search import Acdc, Refine, refine_circuit
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.tasks import metric
from subcircuit.tasks.own_metrics import own_metric
from tests.runs.failing import Failing, Kept, Patient, at_worst, problem_of, same, search
from tests.tiny_models import tiny


@pytest.mark.kill
def test_workers_that_are_killed_or_hang_change_nothing(tmp_path: Path):
    problem, said = problem_of(tiny("attention_only")), list[str]()
    expected = at_worst(problem, "")
    work = partial(at_worst, problem, str(tmp_path))
    result = Pool(3, patience=1.0).run(work, Patient(tmp_path), say=said.append)
    assert same(result, expected)
    assert said == ["warning: worker 1 stopped (killed by signal 9); the other workers take over its work"]
    for worker in tmp_path.iterdir():
        assert not Path("/proc", worker.name.split("-")[1]).exists(), "no worker outlives the work"


@pytest.mark.slow
def test_a_refinement_is_the_same_with_two_processes():
    problem = replace(problem_of(tiny("attention_only")), metric=metric("logit_difference"))
    seed = Circuit.full(problem.graph)
    settings = Refine(kl=0.05, rounds=2, grow=5)
    alone, joined = (Pool(count).run(partial(refine_circuit, problem, seed, settings)) for count in (1, 2))
    assert [point.kept.tolist() for point in joined.path.points] == [point.kept.tolist() for point in alone.path.points]
    assert [point.search for point in joined.path.points] == [point.search for point in alone.path.points]
    assert alone.circuit.n_edges < seed.n_edges


def test_errors_of_the_work_and_ctrl_c_are_those_of_one_process(tmp_path: Path):
    model = tiny("attention_only")
    problem = problem_of(model)
    broken = replace(model, weights=map_tensors(model.weights, lambda tensor: tensor * float("nan")))
    with pytest.raises(NumericalError, match="edges cannot be compared"):
        Pool(2).run(partial(search, "acdc", replace(problem, model=broken)))
    unsent = replace(problem_of(model), metric=own_metric(lambda logits: logits[:, 0]))
    with pytest.raises(SettingsError, match="top level of a file"):
        Pool(2).run(partial(search, "acdc", unsent))
    begun = set(children())

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    # Ctrl-C
    with pytest.raises(KeyboardInterrupt):
        Pool(2).run(partial(discover, model, problem.task, Acdc()), on_step=stop)
    assert set(children()) <= begun
    with pytest.raises(SettingsError, match="workers is 0"):
        Pool(0)


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


class Killed(BaseException):
    """Stands for the end of a process."""


def die() -> None:
    raise Killed


def with_threads(work: Any, processes: int, last: int) -> tuple[torch.Tensor, Kept, Schedule]:
    """The same work in threads that stand for processes; the first worker dies at one of its units."""
    schedule, kept = Schedule(), Kept()

    def help_out(number: int) -> None:
        try:
            work(journal=WorkerJournal(Failing(schedule, die, records=last) if number == 1 else schedule, number))
        except Killed:
            schedule.leave(number)

    workers = [Thread(target=help_out, args=(number,)) for number in range(1, processes)]
    for worker in workers:
        worker.start()
    result = work(journal=LeaderJournal(schedule, kept))
    for worker in workers:
        worker.join()
    return result, kept, schedule


# one of each kind of unit
@pytest.mark.slow
@pytest.mark.parametrize("name", ["acdc", "exact", "eap"])
def test_bits_and_journal_are_those_of_one_process(name: str):
    alone = Kept()
    work = partial(search, name, problem_of(tiny("attention_only")))
    expected = work(journal=alone)
    result, kept, schedule = with_threads(work, 3, 1)
    assert same(result, expected)
    assert list(kept.results.items()) == list(alone.results.items())
    assert schedule.shares[1] == 1


@pytest.mark.slow
@settings(max_examples=4)
@given(st.integers(1, 4), st.integers(0, 6))
def test_sums_and_losses_of_circuits_are_those_of_one_process(workers: int, last: int):
    problem = problem_of(tiny("attention_only"))
    graph = problem.graph
    empty = Circuit(graph, torch.zeros_like(graph.edges))

    def losses(journal: Journal) -> torch.Tensor:
        readings = measure(problem, [empty, Circuit.full(graph)], 1, journal)
        return torch.stack([readings.model, readings.empty, *readings.circuits])

    assert same(with_threads(losses, workers, last)[0], losses(FORGETFUL))


def test_what_a_journal_holds_is_not_done_again():
    work, before = partial(search, "eap", problem_of(tiny("attention_only"))), Kept()
    expected = work(journal=before)
    schedule = Schedule()
    assert same(work(journal=LeaderJournal(schedule, before)), expected)
    assert list(before.results) == list(schedule._done)


def test_a_table_gives_a_unit_to_one_and_on_to_whoever_waits_longest():
    schedule = Schedule(patience=0.05)
    assert schedule.claim(1, ["a", "b"]) == "a"
    assert schedule.claim(2, ["a", "b"]) == "b"
    assert schedule.claim(3, ["a", "b"]) is None
    # 2 is gone, 1 hangs
    schedule.leave(2)
    assert schedule.recall(3, "b") is None
    assert schedule.recall(3, "a") is None
    schedule.record(3, "a", b"once")
    schedule.record(1, "a", b"twice")
    assert schedule.recall(2, "a") == b"once"
    assert schedule.shares == {3: 1}
    assert schedule.claim(2, ["a", "b", "c"]) is None, "the first of them is there: on with it"
    schedule.release(3, "b")
    assert schedule.claim(2, ["b", "c"]) == "b"


class _Leaves(subprocess.Popen[bytes]):
    """A worker's process that has closed its pipe and is on its way out."""

    def __init__(self, code: int, meanwhile: Callable[[], None]):
        # nothing is started: only what is asked of a process that ends
        self._code, self._meanwhile, self.returncode = code, meanwhile, code

    def wait(self, timeout: float | None = None) -> int:
        self._meanwhile()
        return self._code


@pytest.mark.parametrize(
    ("code", "ended_by_us", "told"), [(-15, True, False), (-15, False, True), (-9, False, True), (0, False, False)]
)
def test_workers_that_are_ended_with_the_work_are_no_news(tmp_path: Path, code: int, ended_by_us: bool, told: bool):
    said, leaving, (mine, theirs) = list[str](), Event(), socketpair()
    theirs.close()
    process = _Leaves(code, leaving.set if ended_by_us else lambda: None)
    _serve(Schedule(), _Worker(1, process, Connection(mine.detach()), tmp_path / "log"), said.append, leaving)
    assert bool(said) == told
