"""A Ray cluster of this machine works to the bits of one process."""

from functools import partial
from pathlib import Path
from threading import Event

import pytest

from subcircuit.runs.pool import Pool
from subcircuit.runs.pool_ray import _watch
from tests.runs.failing import Patient, at_worst, problem_of, same
from tests.tiny_models import tiny


@pytest.mark.kill
def test_a_ray_cluster_works_to_the_bits_of_one_process_though_its_worker_is_killed_again_and_again(tmp_path: Path):
    problem = problem_of(tiny("attention_only"))
    work = partial(at_worst, problem, str(tmp_path))
    # this process waits until the worker was killed and has been started again
    joined = Pool(2, ray="local").run(work, Patient(tmp_path))
    assert same(joined, at_worst(problem, ""))
    assert len(list(tmp_path.iterdir())) >= 2


class LosingRay:
    """A cluster on which every task ends at once, and one of them in an error."""

    def wait(self, tasks, timeout):
        return tasks, []

    def get(self, task):
        if task == "lost":
            raise ConnectionError


def test_workers_that_stop_are_told_of_and_only_those_that_stop_before_the_end():
    told, leaving = [], Event()
    _watch(LosingRay(), ["fine", "lost"], told.append, leaving)
    assert told == ["warning: worker 2 stopped (ConnectionError); the other workers take over its work"]
    leaving.set()
    _watch(LosingRay(), ["lost"], told.append, leaving)
    assert len(told) == 1
