"""Whatever is written gets the permissions that the umask leaves, as files written plainly do."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from subcircuit.edit import write_checkpoint
from subcircuit.graph import Circuit, Graph, GraphShape, Head, Scope
from subcircuit.io import write_whole
from subcircuit.model import load_model
from subcircuit.model.load.cache import make_directory
from subcircuit.report import write_run
from subcircuit.report.exchange import export_circuit
from subcircuit.report.page.report import write_report
from subcircuit.runs import DiscoverSpec, run_in
from tests.graph.strategies import record
from tests.tiny_models import tiny_hf

GRAPH = Graph(GraphShape(1, 2, 2), Scope())
CIRCUIT = Circuit(GRAPH, GRAPH.edges, None, record())


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def wrong_modes(folder: Path, umask: int) -> dict[str, str]:
    """What in a folder, itself included, has other permissions than the umask leaves."""
    modes = {path: path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}
    return {path.name: oct(mode) for path, mode in modes.items() if mode != (0o777 if path.is_dir() else 0o666) & ~umask}


def test_files_and_directories_have_the_modes_of_the_umask(umask: int, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    tensors = {"a": torch.ones(2)}
    write_whole(root / "whole.safetensors", lambda file: save_file(tensors, file))
    write_run(CIRCUIT, root / "circuit")
    export_circuit(CIRCUIT, root / "circuit.graphml", "graphml")
    write_report({"title": "t"}, root / "page.html")
    run_in(root / "run", DiscoverSpec(model="m", task="t"), {}, lambda journal: CIRCUIT.save(root / "run"))
    make_directory(root / "cache" / "model", lambda folder: save_file(tensors, folder / "model.safetensors"))
    assert len(list(root.rglob("*"))) > 8
    assert wrong_modes(root, umask) == {}


def test_a_checkpoint_without_some_heads_is_as_readable_as_any_file(umask: int, tmp_path: Path) -> None:
    tiny_hf("llama").save_pretrained(tmp_path / "base")
    (tmp_path / "edited").mkdir()
    write_checkpoint(load_model(tmp_path / "base", device="cpu"), (Head(0, 1),), None, tmp_path / "edited")
    assert (tmp_path / "edited" / "model.safetensors").is_file()
    assert wrong_modes(tmp_path / "edited", umask) == {}
