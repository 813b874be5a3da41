"""Files from strangers: refused within bounds by an error that names them, whatever is in them."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import CircuitFileError, GraphError, SubcircuitError
from subcircuit.graph import Circuit, Graph, Scope
from subcircuit.io import read_bytes
from subcircuit.model import load_model
from subcircuit.report.exchange import READ, export_circuit, import_circuit
from tests.report.exchange.test_formats import acdc_edges
from tests.tiny_models import tiny, tiny_hf

MODEL = tiny("llama")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A good file of every format that is read."""
    folder, circuit = tmp_path_factory.mktemp("good"), Circuit.full(Graph.of(MODEL.config, Scope()))
    good = {name: export_circuit(circuit, folder / name, name, d_model=32).read_bytes() for name in READ if name != "acdc"}
    return {**good, "acdc": pickle.dumps(acdc_edges(), protocol=4)}


def refused(path: Path, name: str) -> str:
    with pytest.raises((CircuitFileError, GraphError)) as caught:
        import_circuit(path, MODEL, format=name)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
@given(data=st.data())
@settings(max_examples=40)
def test_damaged_files_are_read_or_refused(
    name: str, written: dict[str, bytes], tmp_path_factory: Any, data: st.DataObject
) -> None:
    good = written[name]
    match data.draw(st.sampled_from(["cut", "flip", "noise"])):
        case "cut":
            content = good[: data.draw(st.integers(0, len(good) - 1))]
        case "flip":
            at = data.draw(st.integers(0, len(good) - 1))
            content = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
        case _:
            content = data.draw(st.binary(max_size=200))
    file = tmp_path_factory.getbasetemp() / f"damaged-{name}"
    file.write_bytes(content)
    try:
        circuit = import_circuit(file, MODEL, format=name)
    except SubcircuitError:
        return
    assert not bool((circuit.kept & ~circuit.graph.edges).any())


@pytest.mark.parametrize("name", READ)
def test_files_of_another_model_are_refused(name: str, written: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "foreign").write_bytes(written[name])
    other = load_model(tiny_hf("llama", num_hidden_layers=1), device="cpu")
    with pytest.raises((CircuitFileError, GraphError)):
        import_circuit(tmp_path / "foreign", other, format=name)


def edited(content: bytes, change: Callable[[Any], Any]) -> str:
    value = json.loads(content)
    return json.dumps(change(value) or value)


CASES: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "an edge backwards": ("mib-json", lambda v: v["edges"].update({"m1->a0.h0<q>": {"score": 1}}), "not computed before"),
    "our name of the input": ("mib-json", lambda v: v["edges"].update({"embed->m0": {"score": 1}}), "is not a writer"),
    "a node of nowhere": ("mib-json", lambda v: v["edges"].update({"a9.h0->logits": {"score": 1}}), "unknown writer"),
    "a score in words": ("mib-json", lambda v: v["edges"].update({"input->m0": {"score": "1"}}), "not a number"),
    "a score beyond": ("mib-json", lambda v: v["edges"].update({"input->m0": {"score": 10**400}}), "too large"),
    "in_graph in words": ("mib-json", lambda v: v["edges"].update({"input->m0": {"in_graph": "yes"}}), "in_graph"),
    "a billion layers": ("mib-json", lambda v: v["cfg"].update(n_layers=10**9), "n_layers"),
    "a thousand by a thousand": ("mib-json", lambda v: v["cfg"].update(n_layers=1000, n_heads=1000), "no model has"),
    "no edges": ("mib-json", lambda v: v.pop("edges") and None, "no object 'edges'"),
    "a writer alone": ("edge-pruning", lambda v: [*v, ["m0"]], "not a list of"),
    "an edge twice": ("edge-pruning", lambda v: [*v, v[0]], "twice"),
    "positions without any": ("edge-pruning", lambda v: [["pos_embeds", "m0"]], "pos_embeds"),
    "a cycle": ("networkx", lambda v: v["edges"].append({"source": "m1", "target": "m0", "kind": "edge"}), "not computed before"),
    "a cycle of inputs": (
        "networkx",
        lambda v: v["edges"].append({"source": "logits", "target": "embed", "kind": "input"}),
        "not an input",
    ),
    "two edges": ("networkx", lambda v: v["edges"].append(v["edges"][0]), "twice"),
    "not directed": ("networkx", lambda v: v.update(directed=False), "not a directed graph"),
    "a graph that is none": ("networkx", lambda v: v["graph"].update(subcircuit="[" * 90_000), "does not describe a graph"),
}


@pytest.mark.parametrize("what", CASES)
def test_what_does_not_fit_is_told(what: str, written: dict[str, bytes], tmp_path: Path) -> None:
    name, change, words = CASES[what]
    (tmp_path / "bad").write_text(edited(written[name], change))
    message = refused(tmp_path / "bad", name)
    assert words in message
    assert "bad" in message
    assert len(message) < 1200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("mib-json", b'{"edges": {}, "edges": {}}', "twice"),
        ("mib-json", b"[" * 500_000, "cannot be read as JSON"),
        ("mib-json", b"[]", "no object 'edges'"),
        ("csv", b"writer,reader,kept,score\nm0,m1,2,\n", "line 2"),
        ("csv", b"writer,reader,kept,score\nm0,m1,1,large\n", "'large' is not a number"),
        ("csv", b"writer,reader,kept,score\nm0,m1,1,\nm0,m1,1,\n", "twice"),
        ("csv", b'writer,reader,kept,score\n"' + b"a" * 200_000, "line"),
        ("csv", b"a,b\n", "first line"),
        ("csv", b"\xff\xfe", "not UTF-8"),
        ("graphml", b'<!DOCTYPE a [<!ENTITY b "bb">]><graphml>&b;</graphml>', "declares"),
        ("graphml", b'<?xml version="1.0" encoding="cp037"?><graphml/>', "GraphML"),
        ("graphml", b"<a>" * 100_000, "GraphML"),
        ("mib-pt", b"not a zip file", "was not written by torch.save"),
    ],
)
def test_hostile_content_is_refused(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "hostile").write_bytes(content)
    assert words in refused(tmp_path / "hostile", name)


class Canary:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_code_in_pickles_is_never_run(tmp_path: Path) -> None:
    canary = Canary(str(tmp_path / "sung"))
    pickle.loads(pickle.dumps(canary))
    (tmp_path / "sung").rmdir()
    for protocol in range(6):
        (tmp_path / "edges.pkl").write_bytes(pickle.dumps([canary], protocol=protocol))
        assert "was not loaded" in refused(tmp_path / "edges.pkl", "acdc")
    torch.save({"cfg": canary}, tmp_path / "circuit.pt")
    assert "was not loaded" in refused(tmp_path / "circuit.pt", "mib-pt")
    assert not (tmp_path / "sung").exists()


def test_a_pickle_cannot_ask_for_endless_memory(tmp_path: Path) -> None:
    (tmp_path / "memo.pkl").write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    assert "LONG_BINPUT" in refused(tmp_path / "memo.pkl", "acdc")
    doubling = b"\x80\x04K\x01" + b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(40)) + b"."
    (tmp_path / "doubling.pkl").write_bytes(doubling)
    assert "does not contain a list of edges" in refused(tmp_path / "doubling.pkl", "acdc")


def test_a_zip_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * (1 << 25))
    assert (tmp_path / "bomb.pt").stat().st_size < 1 << 20
    assert "would unpack" in refused(tmp_path / "bomb.pt", "mib-pt")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"src_nodes": ["input"]}, "src_nodes"),
        ({"edges_scores": torch.zeros(3, 3)}, "edges_scores"),
        ({"edges_in_graph": None}, "edges_in_graph"),
        ({"neurons_in_graph": torch.ones(2, 2)}, "neurons"),
        ({"cfg": None}, "n_layers"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(
    changes: dict[str, Any], words: str, written: dict[str, bytes], tmp_path: Path
) -> None:
    file = tmp_path / "circuit.pt"
    file.write_bytes(written["mib-pt"])
    torch.save({**torch.load(file, weights_only=True), **changes}, file)
    assert words in refused(file, "mib-pt")


def test_cells_that_are_no_edge_are_not_looked_at(written: dict[str, bytes], tmp_path: Path) -> None:
    file = tmp_path / "circuit.pt"
    file.write_bytes(written["mib-pt"])
    content = torch.load(file, weights_only=True)
    content |= {
        "edges_in_graph": torch.ones_like(content["edges_in_graph"]),
        "edges_scores": torch.ones_like(content["edges_scores"]),
    }
    torch.save(content, file)
    circuit = import_circuit(file, MODEL)
    assert torch.equal(circuit.kept, circuit.graph.edges)
    assert circuit.scores is not None
    assert torch.equal(circuit.scores.isnan(), ~circuit.graph.edges)


def test_files_larger_than_any_circuit_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"0" * 100)
    assert len(read_bytes(tmp_path / "large", 100)) == 100
    with pytest.raises(CircuitFileError, match="larger than"):
        read_bytes(tmp_path / "large", 99)
    with pytest.raises(CircuitFileError, match="No such file"):
        read_bytes(tmp_path / "nothing\n")
