"""The same inputs make the same circuit file, byte for byte and timings aside, however the work is cut up."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from subcircuit.evaluate import discover
from subcircuit.graph import Scope
from subcircuit.search import METHODS
from tests.problems import random_task
from tests.tiny_models import tiny

MODEL = tiny("llama", 5)
TASK = replace(random_task(MODEL, 1, [6, 7, 5, 6, 7]), metric="logit_difference")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def files(folder: Path, method: str, **settings: Any) -> tuple[bytes, bytes]:
    """The circuit and its scores on disk; without timings, and without how the work was cut up, which the record tells."""
    circuit = discover(MODEL, TASK, METHODS[method](**settings), scope=Scope.named("block")).circuit
    assert circuit.record is not None
    told = {name: value for name, value in circuit.record.method.parameters.items() if name not in ("batch_size", "speculation")}
    results = {name: value for name, value in circuit.record.results.items() if name != "trials"}
    of_method = circuit.record.method.model_copy(update={"parameters": told})
    record = circuit.record.model_copy(update={"timings": {}, "method": of_method, "results": results})
    replace(circuit, record=record).save(folder)
    return (folder / "circuit.json").read_bytes(), (folder / "scores.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["acdc", "exact", "eap", "eap-ig-inputs"])
def test_files_are_the_same_each_time_and_with_any_number_of_threads(method: str, tmp_path: Path, threads: None) -> None:
    first = files(tmp_path, method)
    torch.set_num_threads(3)
    assert files(tmp_path, method) == first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("acdc", {"batch_size": 1}),
        ("acdc", {"batch_size": 2}),
        ("acdc", {"speculation": 1}),
        ("exact", {"batch_size": 2}),
        ("eap", {"batch_size": 1}),
        ("eap-ig-inputs", {"batch_size": 2}),
    ],
)
def test_circuits_do_not_depend_on_how_the_work_is_cut_up(method: str, settings: dict[str, int], tmp_path: Path) -> None:
    assert files(tmp_path, method, **settings)[0] == files(tmp_path, method)[0]
