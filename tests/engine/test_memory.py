"""Peaks of memory are what was taken."""

import pytest
import torch

from subcircuit.engine.memory import peak_memory


def test_peak_memory_sees_what_was_taken():
    with peak_memory(torch.device("cpu")) as small:
        torch.ones(10)
    with peak_memory(torch.device("cpu")) as large:
        torch.ones(200_000_000)
    if small.size is None or large.size is None:
        pytest.skip("this system does not tell")
    assert 0.7e9 < large.size - small.size < 1.2e9
