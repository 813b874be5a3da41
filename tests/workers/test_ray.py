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
    alone, joined = work(model).circuit, together(work, model, Crew(2, ray="local")).circuit
    assert alone.scores is not None
    assert joined.scores is not None
    assert torch.equal(joined.scores.nan_to_num(9), alone.scores.nan_to_num(9))
    assert torch.equal(joined.kept, alone.kept)
