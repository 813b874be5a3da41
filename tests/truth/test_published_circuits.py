"""Published circuits: the rules give the published counts, and what the authors' own procedure gives."""

import pytest
import torch

from subcircuit.engine import ABLATIONS
from subcircuit.errors import GraphError, UnknownNameError
from subcircuit.graph import MLP, Circuit, Embed, Graph, GraphShape, Head, HeadInput, Logits, Scope
from subcircuit.truth import published_circuit, published_circuits, with_whole_inputs

GPT2 = Graph(GraphShape(12, 12, 12), Scope())
GRAPHS = {"gpt2": GPT2, "attn-only-4l": Graph(GraphShape(4, 8, 8, mlps=False), Scope())}

DOCSTRING = """a0.h5->a1.h4<v> embed->a0.h5<v> embed->a2.h0<q> a0.h5->a2.h0<q> embed->a2.h0<k> a0.h5->a2.h0<k> a1.h4->a2.h0<v>
    embed->a1.h4<v> embed->a1.h2<q> embed->a1.h2<k> a0.h5->a1.h2<q> a0.h5->a1.h2<k>
    a3.h0->logits a1.h4->a3.h0<q> embed->a3.h0<v> a0.h5->a3.h0<v> a2.h0->a3.h0<k> a1.h2->a3.h0<k>
    a3.h6->logits a1.h4->a3.h6<q> embed->a3.h6<v> a0.h5->a3.h6<v> a2.h0->a3.h6<k> a1.h2->a3.h6<k>"""


@pytest.mark.parametrize(
    ("name", "edges", "with_inputs"), [("ioi", 963, 1041), ("greater-than", 235, 262), ("docstring", 24, 37)]
)
def test_edge_counts_are_the_published_ones(name, edges, with_inputs):
    published = published_circuit(name)
    circuit = published.circuit(GRAPHS[published.model])
    assert circuit.n_edges == edges
    assert with_whole_inputs(circuit) == with_inputs


def test_every_edge_of_every_circuit_lies_on_a_path():
    for published in published_circuits():
        if published.sizes is not None:
            circuit = published.circuit(GRAPHS[published.model])
            assert torch.equal(circuit.prune().kept, circuit.kept)
            assert published.ablation in ABLATIONS.values()


def test_the_docstring_circuit_is_the_list_of_its_authors():
    assert published_circuit("docstring").circuit(GRAPHS["attn-only-4l"]).names == sorted(DOCSTRING.split())


@pytest.mark.slow
def test_ioi_is_what_is_left_of_the_whole_graph():
    """The authors begin with all edges and take away; the rules begin with none."""
    published = published_circuit("ioi")
    heads = {name for group in published.groups.values() for name in group}
    kept = GPT2.edges.clone()
    for row, writer in enumerate(GPT2.writers):
        for column, reader in enumerate(GPT2.readers):
            owner = f"a{reader.layer}.h{reader.head}" if isinstance(reader, HeadInput) else None
            foreign = (isinstance(writer, Head) and str(writer) not in heads) or (owner is not None and owner not in heads)
            direct = isinstance(writer, Head | Embed) and owner is not None
            if foreign or direct or (isinstance(writer, Head) and isinstance(reader, Logits)):
                kept[row, column] = False
    movers = ("name_mover", "backup_name_mover", "negative_name_mover")
    for sender, receivers, parts in [
        ("embed", ("previous_token", "duplicate_token"), "qkv"),
        ("embed", ("s_inhibition",), "q"),
        ("embed", movers, "kv"),
        ("previous_token", ("induction",), "kv"),
        ("induction", ("s_inhibition",), "kv"),
        ("duplicate_token", ("s_inhibition",), "kv"),
        ("s_inhibition", movers, "q"),
        *((mover, ("logits",), "") for mover in movers),
    ]:
        for writer in published.groups.get(sender, ("embed",)):
            for node in (node for group in receivers for node in published.groups.get(group, ("logits",))):
                for name in [f"{writer}->{node}<{part}>" for part in parts] or [f"{writer}->{node}"]:
                    kept[GPT2.find(name)] = True
    assert torch.equal(published.circuit(GPT2).kept, kept)


def test_greater_than_reads_years_into_the_mid_heads_alone():
    circuit = published_circuit("greater-than").circuit(GPT2)
    readers = {str(edge.reader) for edge in circuit.edges if str(edge.writer) == "a0.h5"}
    assert readers == {f"{head}<{part}>" for head in ("a5.h5", "a6.h1", "a6.h9", "a7.h10", "a8.h11", "a9.h1") for part in "qkv"}
    assert {edge.reader for edge in circuit.edges if edge.writer == MLP(11)} == {Logits()}


def test_heads_of_a_mechanism_are_for_the_caller_to_name():
    induction, graph = published_circuit("induction"), Graph(GraphShape(2, 8, 8, mlps=False), Scope())
    circuit = induction.circuit(graph, {"previous_token": ["a0.h3"], "induction": ["a1.h6"]})
    assert circuit.names == ["a0.h3->a1.h6<k>", "a1.h6->logits", "embed->a0.h3<v>", "embed->a1.h6<q>", "embed->a1.h6<v>"]
    with pytest.raises(GraphError, match=r"group induction is empty\. Groups: previous_token, induction"):
        induction.circuit(graph)
    with pytest.raises(GraphError, match="group movers is unknown"):
        induction.circuit(graph, {"previous_token": ["a0.h3"], "induction": ["a1.h6"], "movers": ["a0.h0"]})
    with pytest.raises(UnknownNameError, match=r"unknown node 'a7\.h0'"):
        induction.circuit(graph, {"previous_token": ["a7.h0"], "induction": ["a1.h6"]})


def test_other_models_and_scopes_are_refused():
    ioi = published_circuit("ioi")
    with pytest.raises(GraphError, match=r"found in gpt2, 12 layers of 12 heads with MLPs; this graph has 4 of 8, without"):
        ioi.circuit(GRAPHS["attn-only-4l"])
    for scope in (Scope("head"), Scope("qkv", "grouped"), Scope(split_embeddings=True)):
        with pytest.raises(GraphError, match="scope qkv"):
            ioi.circuit(Graph(GraphShape(12, 12, 12, learned_positions=True), scope))
    with pytest.raises(UnknownNameError, match="Did you mean 'ioi'"):
        published_circuit("oi")


def test_whole_inputs_are_counted_once_and_only_where_something_is_kept():
    graph = Graph(GraphShape(2, 2, 2), Scope())
    assert with_whole_inputs(Circuit.empty(graph)) == 0
    circuit = Circuit.of_edges(graph, ["embed->a1.h0<q>", "m0->a1.h0<q>", "embed->a1.h1<v>", "m1->logits"])
    assert with_whole_inputs(circuit) == 6
