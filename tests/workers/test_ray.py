"""A Ray cluster of this machine works to the bits of one process."""

from functools import partial
from threading import Event

import torch

from subcircuit.search import Exact, discover
from subcircuit.workers import Crew, together
from subcircuit.workers.on_ray import _watch
from tests.behaviours import random_task
from tests.tiny_models import tiny


def test_a_ray_cluster_works_to_the_bits_of_one_process():
    model = tiny("attention_only")
    work = partial(discover, task=random_task(model, 3, [5, 4, 5]), method=Exact())
    alone, joined = work(model).circuit, together(work, model, Crew(2, ray="local")).circuit
    assert alone.scores is not None
    assert joined.scores is not None
    assert torch.equal(joined.scores.nan_to_num(9), alone.scores.nan_to_num(9))
    assert torch.equal(joined.kept, alone.kept)


class LosingRay:
    """A cluster on which every task ends at once, and one of them in an error."""

    def wait(self, tasks, timeout):
        return tasks, []

    def get(self, task):
        if task == "lost":
            raise ConnectionError


def test_helpers_that_stop_are_told_of_and_only_those_that_stop_before_the_end():
    told, leaving = [], Event()
    _watch(LosingRay(), ["fine", "lost"], told.append, leaving)
    assert told == ["warning: worker 2 stopped, ConnectionError; the others do its work"]
    leaving.set()
    _watch(LosingRay(), ["lost"], told.append, leaving)
    assert len(told) == 1
