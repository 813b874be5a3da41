"""However many processes work, whatever becomes of them, the result is that of one, to the last bit."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import NumericalError, SettingsError
from subcircuit.evaluate import measure
from subcircuit.graph import Circuit, Graph
from subcircuit.model import Transformer
from subcircuit.model.weights import map_tensors
from subcircuit.search import METHODS, Acdc, Behaviour, EdgeScores, discover
from subcircuit.search.journal import FORGETFUL, Journal, Under
from subcircuit.workers import Crew, Table, together
from subcircuit.workers.sharing import Helping, Leading
from subcircuit.workers.table import Asked
from tests.behaviours import random_behaviour
from tests.tiny_models import tiny


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


def search(name: str, model: Transformer, behaviour: Behaviour, journal: Journal = FORGETFUL) -> torch.Tensor:
    settings = METHODS[name].settings(**({} if name == "acdc" else {"batch_size": 1}))
    found = METHODS[name].search(model, Graph.of(model.config), behaviour, settings, None, Under(journal, "part"))
    return found.values if isinstance(found, EdgeScores) else torch.stack([found.circuit.kept, found.circuit.scores])


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.nan_to_num(9), b.nan_to_num(9))


def behaviour_of(model: Transformer) -> Behaviour:
    return random_behaviour(model, 3, [5, 4, 5], 1, "logit_difference", "resample")


def at_worst(model: Transformer, behaviour: Behaviour, folder: str, journal: Journal = FORGETFUL) -> torch.Tensor:
    """Searches in which one helper is killed at a unit of its own, and another stops for good."""
    if isinstance(journal, Helping):
        Path(folder, f"{journal.worker}-{os.getpid()}").touch()
        fatal = {1: signal.SIGKILL, 2: signal.SIGSTOP}[journal.worker]
        journal = Helping(Failing(journal.table, lambda: os.kill(os.getpid(), fatal), claims=2), journal.worker)
    found = [search(name, model, behaviour, Under(journal, name)) for name in ("exact", "acdc")]
    return torch.cat([values.flatten() for values in found])


@dataclass
class Failing:
    """The table as a helper sees it that fails when it has taken units ahead or recorded so many results."""

    table: Asked
    fail: Callable[[], None]
    claims: int = 10**6
    records: int = 10**6

    def claim(self, worker: int, keys: Sequence[str]) -> str | None:
        mine = self.table.claim(worker, keys)
        self.claims -= mine is not None
        if self.claims < 1:
            self.fail()
        return mine

    def recall(self, worker: int, key: str) -> bytes | None:
        return self.table.recall(worker, key)

    def record(self, worker: int, key: str, result: bytes) -> None:
        self.records -= 1
        if self.records < 0:
            self.fail()
        self.table.record(worker, key, result)

    def release(self, worker: int, key: str) -> None:
        self.table.release(worker, key)

    def leave(self, worker: int) -> None:
        self.table.leave(worker)


def test_helpers_that_are_killed_or_hang_change_nothing(tmp_path: Path):
    model = tiny("attention_only")
    behaviour, said = behaviour_of(model), list[str]()
    expected = at_worst(model, behaviour, "")
    work = partial(at_worst, behaviour=behaviour, folder=str(tmp_path))
    result = together(work, model, Crew(3, patience=1.0), Patient(tmp_path), say=said.append)
    assert same(result, expected)
    assert said == ["warning: worker 1 stopped, killed by signal 9; the others do its work"]
    for helper in tmp_path.iterdir():
        assert not Path("/proc", helper.name.split("-")[1]).exists(), "no helper outlives the work"


class Patient(Kept):
    """A journal whose process waits at first until all helpers are there."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def recall(self, key: str) -> bytes | None:
        while len(list(self.folder.iterdir())) < 2:
            sleep(0.1)
        return super().recall(key)


def test_errors_of_the_work_and_ctrl_c_are_those_of_one_process(tmp_path: Path):
    model = tiny("attention_only")
    broken = replace(model, weights=map_tensors(model.weights, lambda tensor: tensor * float("nan")))
    with pytest.raises(NumericalError, match="nothing was ranked"):
        together(partial(search, "acdc", behaviour=behaviour_of(model)), broken, Crew(2))
    begun = set(children())

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    # Ctrl-C
    with pytest.raises(KeyboardInterrupt):
        together(partial(discover, task=behaviour_of(model).task, method=Acdc()), model, Crew(2), on_step=stop)
    assert set(children()) <= begun
    with pytest.raises(SettingsError, match="workers is 0"):
        Crew(0)


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


class Killed(BaseException):
    """Stands for the end of a process."""


def die() -> None:
    raise Killed


def with_threads(work: Any, workers: int, last: int) -> tuple[torch.Tensor, Kept, Table]:
    """The same work in threads that stand for processes; the first helper dies at one of its units."""
    table, kept = Table(), Kept()

    def help_out(number: int) -> None:
        try:
            work(journal=Helping(Failing(table, die, records=last) if number == 1 else table, number))
        except Killed:
            table.leave(number)

    helpers = [Thread(target=help_out, args=(number,)) for number in range(1, workers)]
    for helper in helpers:
        helper.start()
    result = work(journal=Leading(table, kept))
    for helper in helpers:
        helper.join()
    return result, kept, table


# one of each kind of unit
@pytest.mark.parametrize("name", ["acdc", "exact", "eap"])
def test_bits_and_journal_are_those_of_one_process(name: str):
    model = tiny("attention_only")
    alone = Kept()
    work = partial(search, name, model, behaviour_of(model))
    expected = work(journal=alone)
    result, kept, table = with_threads(work, 3, 1)
    assert same(result, expected)
    assert list(kept.results.items()) == list(alone.results.items())
    assert table.shares[1] == 1


@settings(max_examples=4)
@given(st.integers(1, 4), st.integers(0, 6))
def test_sums_and_losses_of_circuits_are_those_of_one_process(workers: int, last: int):
    model = tiny("attention_only")
    behaviour, graph = behaviour_of(model), Graph.of(model.config)
    empty = Circuit(graph, torch.zeros_like(graph.edges))

    def losses(journal: Journal) -> torch.Tensor:
        readings = measure(model, graph, behaviour, [empty, Circuit.full(graph)], 1, journal)
        return torch.stack([readings.model, readings.empty, *readings.circuits])

    assert same(with_threads(losses, workers, last)[0], losses(FORGETFUL))


def test_what_a_journal_holds_is_not_done_again():
    model = tiny("attention_only")
    work, before = partial(search, "eap", model, behaviour_of(model)), Kept()
    expected = work(journal=before)
    table = Table()
    assert same(work(journal=Leading(table, before)), expected)
    assert list(before.results) == list(table._done)


def test_a_table_gives_a_unit_to_one_and_on_to_whoever_waits_longest():
    table = Table(patience=0.05)
    assert table.claim(1, ["a", "b"]) == "a"
    assert table.claim(2, ["a", "b"]) == "b"
    assert table.claim(3, ["a", "b"]) is None
    # 2 is gone, 1 hangs
    table.leave(2)
    assert table.recall(3, "b") is None
    assert table.recall(3, "a") is None
    table.record(3, "a", b"once")
    table.record(1, "a", b"twice")
    assert table.recall(2, "a") == b"once"
    assert table.shares == {3: 1}
    assert table.claim(2, ["a", "b", "c"]) is None, "the first of them is there: on with it"
    table.release(3, "b")
    assert table.claim(2, ["b", "c"]) == "b"
