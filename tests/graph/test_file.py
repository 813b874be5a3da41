"""Circuits on disk: what was saved comes back equal; what is damaged is refused by name."""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from subcircuit.errors import CircuitFileError, GraphError
from subcircuit.graph import Circuit, Graph, GraphShape, Scope
from tests.graph.strategies import circuits, record


def scored(circuit: Circuit) -> Circuit:
    generator = torch.Generator().manual_seed(circuit.n_edges)
    scores = torch.randn(circuit.kept.shape, generator=generator).masked_fill(~circuit.graph.edges, torch.nan)
    scores[0, -1] = torch.inf
    return Circuit(circuit.graph, circuit.kept, scores, record())


@pytest.mark.slow
@given(circuits(positioned=True), st.booleans())
def test_a_saved_circuit_reloads_to_an_equal_one(circuit: Circuit, with_scores: bool) -> None:
    circuit = scored(circuit) if with_scores else circuit
    with TemporaryDirectory() as folder:
        circuit.save(Path(folder) / "new" / "run")
        assert Circuit.load(Path(folder) / "new" / "run") == circuit
        assert Circuit.load(Path(folder) / "new" / "run" / "circuit.json") == circuit


def test_constants_of_a_learned_ablation_come_back_and_must_fit(tmp_path: Path) -> None:
    circuit = small()
    learned = replace(circuit, constants=torch.randn(len(circuit.graph.writers), 5))
    learned.save(tmp_path)
    assert Circuit.load(tmp_path) == learned != circuit
    save_file({"constants": torch.zeros(2, 5)}, tmp_path / "constants.safetensors")
    with pytest.raises(CircuitFileError, match=r"constants.* has shape"):
        Circuit.load(tmp_path)
    with pytest.raises(GraphError, match="constants of 2 writers"):
        replace(circuit, constants=torch.zeros(2, 5))


def test_a_single_file_holds_a_circuit_without_scores(tmp_path: Path) -> None:
    circuit = scored(small())
    circuit.save(tmp_path / "ioi.circuit.json")
    assert [file.name for file in tmp_path.iterdir()] == ["ioi.circuit.json"]
    assert Circuit.load(tmp_path / "ioi.circuit.json") == Circuit(circuit.graph, circuit.kept, None, circuit.record)


def test_saving_again_replaces_and_leaves_no_temporary_files(tmp_path: Path) -> None:
    scored(Circuit.full(small().graph)).save(tmp_path)
    scored(small()).save(tmp_path)
    assert Circuit.load(tmp_path) == scored(small())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["circuit.json", "scores.safetensors"]


def test_the_file_is_sorted_text_that_a_person_can_read(tmp_path: Path) -> None:
    scored(small()).save(tmp_path)
    content = json.loads((tmp_path / "circuit.json").read_text(encoding="utf-8"))
    assert content["format"] == 1
    assert content["edges"] == ["a0.h1->logits", "embed->a0.h1<v>"]
    assert content["record"]["model"]["name"] == "tiny/modèle"


def small() -> Circuit:
    return Circuit.of_edges(Graph(GraphShape(2, 2, 1), Scope()), ["embed->a0.h1<v>", "a0.h1->logits"])


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "circuit.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **changes}), encoding="utf-8")


SHAPE = {
    "n_layers": 2,
    "n_heads": 2,
    "n_kv_heads": 1,
    "mlps": True,
    "parallel": False,
    "learned_positions": False,
    "coupled_heads": False,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "newer"),
        ({"format": "1"}, "format"),
        ({"edges": ["embed->a7.h0<q>"]}, "unknown reader"),
        ({"edges": ["a1.h0->a0.h0<q>"]}, "no edge"),
        ({"edges": ["nonsense"]}, "not an edge"),
        ({"edges": [3]}, "edges"),
        ({"surprise": 1}, "surprise"),
        ({"scope": {"level": "neuron"}}, "0 neurons"),
        ({"scope": {"level": "heads"}}, "scope"),
        ({"scope": {"level": "expert"}}, "no mixtures of experts"),
        ({"graph": SHAPE | {"mixtures": [0, 9], "experts": 4}}, "mixtures"),
        ({"graph": SHAPE | {"mixtures": [0], "experts": 10**9}}, "mixtures"),
        ({"graph": SHAPE | {"experts": 4}}, "mixtures"),
        ({"scope": {"overrides": [["m7", "head"]]}}, "no level"),
        ({"scope": {"overrides": [["a7", "head"]]}}, "no a7"),
        ({"graph": SHAPE | {"neurons": 10**9}, "scope": {"level": "neuron"}}, "neurons"),
        ({"scope": {"split_embeddings": True}}, "no learned positions"),
        ({"graph": SHAPE | {"n_kv_heads": 0}}, "no model"),
        ({"graph": SHAPE | {"n_layers": 10**9}}, "no model"),
        ({"graph": SHAPE | {"n_heads": 3, "n_kv_heads": 2}}, "no model"),
        ({"graph": {}}, "n_layers"),
    ],
)
def test_content_that_makes_no_circuit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    scored(small()).save(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(CircuitFileError, match=message) as caught:
        Circuit.load(tmp_path)
    assert str(tmp_path / "circuit.json") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": NaN}'])
def test_what_is_not_a_circuit_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "circuit.json").write_bytes(content)
    with pytest.raises(CircuitFileError, match=r"circuit\.json"):
        Circuit.load(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CircuitFileError, match="there is no circuit here"):
        Circuit.load(tmp_path)
    with pytest.raises(CircuitFileError, match="there is no circuit here"):
        Circuit.load(tmp_path / "nowhere")


def test_damaged_scores_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "scores.safetensors"

    def load_again() -> str:
        with pytest.raises(CircuitFileError) as caught:
            Circuit.load(tmp_path)
        return str(caught.value)

    scored(small()).save(tmp_path)
    whole = file.read_bytes()
    for length in (0, 4, 40, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert str(file) in load_again()
    save_file({"scores": torch.zeros(3, 3)}, file)
    assert "shape (3, 3)" in load_again()
    save_file({"scores": torch.zeros(small().kept.shape, dtype=torch.int32)}, file)
    assert "int32" in load_again()
    save_file({"other": torch.zeros(3)}, file)
    assert str(file) in load_again()
    file.unlink()
    assert str(file) in load_again()


def test_files_that_call_positions_places_load(tmp_path: Path) -> None:
    graph = Graph(GraphShape(1, 2, 2, positions=("IO", "END")), Scope.named("qkv, positions=roles"))
    Circuit.full(graph).save(tmp_path)
    written = json.loads((tmp_path / "circuit.json").read_text())
    shape = written["graph"]
    shape["places"] = shape.pop("positions")
    (tmp_path / "circuit.json").write_text(json.dumps(written))
    assert Circuit.load(tmp_path) == Circuit.full(graph)
