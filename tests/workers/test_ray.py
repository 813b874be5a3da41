"""A Ray cluster of this machine works to the bits of one process."""

from functools import partial

import torch

from subcircuit.search import Exact, discover
from subcircuit.workers import Crew, together
from tests.behaviours import random_task
from tests.tiny_models import tiny


def test_a_ray_cluster_works_to_the_bits_of_one_process():
    model = tiny("attention_only")
    work = partial(discover, task=random_task(model, 3, [5, 4, 5]), method=Exact())
    alone, together_ = work(model), together(work, model, Crew(2, ray="local"))
    assert torch.equal(together_.circuit.scores.nan_to_num(9), alone.circuit.scores.nan_to_num(9))
    assert together_.circuit == alone.circuit
