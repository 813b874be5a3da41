"""Formats of exchange: what is written is what their tools read, and comes back equal; what cannot be said is refused."""

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import CircuitFileError, GraphError, OutputError, UnknownNameError
from subcircuit.graph import Circuit, Graph, GraphShape, Scope
from subcircuit.model import Transformer
from subcircuit.report.exchange import FORMATS, READ, WRITTEN, export_circuit, import_circuit, to_networkx
from tests.graph.strategies import circuits, graphs, record
from tests.report.exchange.mib_reader import edges_of, read_json, read_pt
from tests.tiny_models import tiny

FAMILIES = ("gpt2", "pythia", "llama_gqa", "gemma2", "attention_only")
ROUND_TRIPS = [name for name in WRITTEN if name in READ]


def scored(circuit: Circuit, seed: int) -> Circuit:
    """With scores for half of the edges, and for all that are kept."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(circuit.kept.shape, generator=generator)
    measured = circuit.kept | (torch.rand(circuit.kept.shape, generator=generator) < 0.5)
    return replace(circuit, scores=scores.masked_fill(~(circuit.graph.edges & measured), torch.nan))


def fits(name: str, graph: Graph) -> bool:
    match name:
        case "mib-json" | "mib-pt":
            return graph.scope == Scope() and graph.shape.mlps
        case "edge-pruning":
            return graph.scope in (Scope(), Scope(split_embeddings=True))
        case _:
            return True


@st.composite
def cases(draw: st.DrawFn) -> tuple[Transformer, Circuit]:
    model = tiny(draw(st.sampled_from(FAMILIES)))
    scope = Scope(
        draw(st.sampled_from(["qkv", "qkv", "head", "block"])),
        draw(st.sampled_from(["per_query_head", "grouped"])),
        model.config.learned_positions and draw(st.booleans()),
        positions=draw(st.sampled_from(["all", "all", "each", "roles"])),
    )
    places = {"all": (), "each": ("0", "1"), "roles": ("IO", "END")}[scope.positions]
    circuit = draw(circuits(Graph.of(model.config, scope, places)))
    return model, scored(circuit, draw(st.integers(0, 99))) if draw(st.booleans()) else circuit


def what_comes_back(name: str, circuit: Circuit) -> Circuit:
    """What a format can say of a circuit."""
    if name == "edge-pruning" or circuit.scores is None:
        return replace(circuit, scores=None)
    scores = circuit.scores if name in ("mib-json", "mib-pt", "csv") else circuit.scores.masked_fill(~circuit.kept, torch.nan)
    return replace(circuit, scores=None if bool(scores.isnan().all()) else scores)


@pytest.mark.slow
@given(cases(), st.sampled_from(ROUND_TRIPS))
@settings(max_examples=120)
def test_what_is_exported_comes_back_equal_or_is_refused(case: tuple[Transformer, Circuit], name: str) -> None:
    model, circuit = case
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"circuit{FORMATS[name].suffix}"
        if not fits(name, circuit.graph):
            with pytest.raises(GraphError, match="export to networkx"):
                export_circuit(circuit, file, name, d_model=32)
            assert list(Path(folder).iterdir()) == []
            return
        export_circuit(circuit, file, name, d_model=32)
        scope = circuit.graph.scope if name in ("csv", "edge-pruning") else None
        if name == "csv" and circuit.graph.shape.positions:
            with pytest.raises(GraphError, match="does not list the positions"):
                import_circuit(file, model, scope=scope)
            return
        assert import_circuit(file, model, scope=scope) == what_comes_back(name, circuit)


@pytest.mark.slow
@given(graphs(), st.integers(0, 99), st.booleans())
@settings(max_examples=40)
def test_mib_reads_the_circuit_that_was_written(graph: Graph, seed: int, with_scores: bool) -> None:
    graph = Graph(replace(graph.shape, mlps=True, learned_positions=False), Scope())
    half = Circuit(graph, graph.edges & (torch.rand(graph.edges.shape, generator=torch.Generator().manual_seed(seed)) < 0.5))
    circuit = scored(half, seed) if with_scores else half
    with TemporaryDirectory() as folder:
        for name, read in {"mib-json": read_json, "mib-pt": read_pt}.items():
            theirs = read(export_circuit(circuit, Path(folder) / name, name, d_model=48))
            assert torch.equal(theirs.real, graph.edges)
            assert sorted(edges_of(theirs)) == circuit.names
            assert theirs.d_model == 48
            assert {str(node) for node in circuit.nodes} - {"embed", "logits"} == {
                node for node, kept in theirs.nodes_in_graph.items() if kept
            } - {"input", "logits"}
            expected = torch.full(graph.edges.shape, math.nan) if circuit.scores is None else circuit.scores
            assert torch.equal(theirs.scores[graph.edges].nan_to_num(9.0), expected[graph.edges].nan_to_num(9.0))


@given(circuits())
@settings(max_examples=40)
def test_paths_through_the_network_are_paths_through_the_circuit(circuit: Circuit) -> None:
    network = to_networkx(circuit)
    assert nx.is_directed_acyclic_graph(network)
    names = {f"{a}->{b}" for a, b, kind in network.edges(data="kind") if kind == "edge"}
    assert sorted(names) == circuit.names
    starts = [n for n in network if n in ("embed", "token_embed", "pos_embed")]
    reached = {"logits"} & set(network) and any(nx.has_path(network, start, "logits") for start in starts)
    apart = Graph(replace(circuit.graph.shape, coupled_heads=False), circuit.graph.scope)
    assert bool(reached) == bool(Circuit(apart, circuit.kept).prune().n_edges)


@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_that_exists_is_overwritten(name: str, tmp_path: Path) -> None:
    circuit = Circuit.full(Graph(GraphShape(2, 2, 1), Scope()))
    written = export_circuit(circuit, tmp_path / "new" / "circuit", name, d_model=8)
    before = written.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        export_circuit(Circuit.empty(circuit.graph), written, name, d_model=8)
    assert written.read_bytes() == before
    assert [file.name for file in written.parent.iterdir()] == ["circuit"]


def test_the_width_is_the_recorded_one_or_asked_for(tmp_path: Path) -> None:
    circuit = replace(Circuit.full(Graph(GraphShape(2, 2, 1), Scope())), record=record())
    with pytest.raises(GraphError, match="--model"):
        export_circuit(circuit, tmp_path / "a", "mib-pt")
    assert circuit.record is not None
    known = replace(
        circuit, record=circuit.record.model_copy(update={"model": circuit.record.model.model_copy(update={"d_model": 7})})
    )
    assert read_pt(export_circuit(known, tmp_path / "a", "mib-pt")).d_model == 7


def test_an_attribution_graph_has_the_fields_of_its_viewers(tmp_path: Path) -> None:
    graph = Graph(GraphShape(2, 2, 1), Scope())
    half = Circuit.of_edges(graph, ["embed->a0.h1<q>", "embed->a0.h1<v>", "a0.h1->m1", "m1->logits"])
    circuit = replace(half, scores=torch.arange(graph.edges.numel(), dtype=torch.float32).reshape(graph.edges.shape))
    content = json.loads(export_circuit(circuit, tmp_path / "a.json", "attribution-graph").read_text())
    assert content.keys() == {"metadata", "qParams", "nodes", "links"}
    assert content["metadata"].keys() >= {"slug", "scan", "prompt_tokens", "prompt"}
    nodes = {node["node_id"]: node for node in content["nodes"]}
    assert nodes.keys() == {"embed", "a0.h1", "m1", "logits"}
    assert nodes["a0.h1"].items() >= {"feature": None, "layer": "0", "ctx_idx": 0, "clerp": "a0.h1", "jsNodeId": "a0.h1"}.items()
    weights = {(link["source"], link["target"]): link["weight"] for link in content["links"]}
    assert circuit.scores is not None
    both = sum(float(circuit.scores[graph.find(name)]) for name in ("embed->a0.h1<q>", "embed->a0.h1<v>"))
    assert weights[("embed", "a0.h1")] == both
    assert len(weights) == 3
    with pytest.raises(CircuitFileError, match="cannot be imported"):
        import_circuit(tmp_path / "a.json", tiny("llama"))


def test_dot_is_inert_and_names_every_edge(tmp_path: Path) -> None:
    hostile = record().model_copy(update={"ablation": "zero"})
    hostile = hostile.model_copy(update={"task": hostile.task.model_copy(update={"name": 'x"]; a -> b; "\\\u2028<script>'})})
    circuit = replace(
        Circuit.of_edges(Graph(GraphShape(1, 2, 1), Scope(kv="grouped")), ["embed->a0.h0<k>", "a0.h1->m0"]), record=hostile
    )
    text = export_circuit(circuit, tmp_path / "a.dot", "dot").read_text()
    assert '\\"]; a -> b; \\"\\\\' in text
    assert "\u2028" not in text
    arrows = [line.split("[")[0].strip() for line in text.splitlines() if "->" in line.split("[")[0] and "label" not in line]
    assert arrows == ['"embed" -> "a0.h0"', '"embed" -> "a0.h1"', '"a0.h1" -> "m0"']


def acdc_edges() -> list[tuple[tuple[str, tuple[int | None, ...], str, tuple[int | None, ...]], float]]:
    head, everything = (None, None, 1), (None,)
    return [
        (("blocks.2.hook_resid_post", everything, "blocks.1.attn.hook_result", head), 0.5),
        (("blocks.1.attn.hook_result", head, "blocks.1.attn.hook_q", head), 0.1),
        (("blocks.1.attn.hook_q", head, "blocks.1.hook_q_input", head), 0.2),
        (("blocks.1.hook_q_input", head, "blocks.0.hook_mlp_out", everything), -0.25),
        (("blocks.0.hook_mlp_in", everything, "blocks.0.hook_resid_pre", everything), 0.75),
    ]


def test_pickles_of_the_authors_program_are_read(tmp_path: Path) -> None:
    file = tmp_path / "edges.pkl"
    for protocol in (2, 4, 5):
        file.write_bytes(pickle.dumps(acdc_edges(), protocol=protocol))
        circuit = import_circuit(file, tiny("llama"))
        assert circuit.names == ["a1.h1->logits", "embed->m0", "m0->a1.h1<q>"]
        assert circuit.scores is not None
        assert float(circuit.scores[circuit.graph.find("m0->a1.h1<q>")]) == -0.25
    split = [(("blocks.0.hook_mlp_in", (None,), "hook_pos_embed", (None,)), 1.0)]
    file.write_bytes(pickle.dumps(split))
    assert import_circuit(file, tiny("gpt2")).names == ["pos_embed->m0"]


def test_unknown_formats_suggest_the_nearest(tmp_path: Path) -> None:
    circuit = Circuit.full(Graph(GraphShape(1, 1, 1), Scope()))
    with pytest.raises(UnknownNameError, match="'graphml'"):
        export_circuit(circuit, tmp_path / "a", "grphml")
    with pytest.raises(UnknownNameError, match="for display"):
        import_circuit(tmp_path / "a", tiny("llama"), format="dot")
