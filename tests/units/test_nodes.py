"""One grammar of names: what is printed is read back, and nothing else is read."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subcircuit.errors import GraphError, UnknownNameError
from subcircuit.graph import Graph, GraphShape, Scope, parse_edge, parse_reader, parse_writer
from tests.graph.strategies import graphs


@pytest.mark.slow
@given(graphs(positioned=True))
def test_every_name_of_a_graph_is_read_back(graph: Graph) -> None:
    assert all(parse_writer(str(writer)) == writer for writer in graph.writers)
    assert all(parse_reader(str(reader)) == reader for reader in graph.readers)
    for w, r in graph.edges.nonzero().tolist():
        edge = graph.edge(w, r)
        assert parse_edge(str(edge)) == edge
        assert graph.find(str(edge)) == (w, r)


@given(graphs(positioned=True))
def test_names_are_unique(graph: Graph) -> None:
    assert len({str(writer) for writer in graph.writers}) == len(graph.writers)
    assert len({str(reader) for reader in graph.readers}) == len(graph.readers)


@pytest.mark.slow
@given(st.text(alphabet="amhqkv0123456789.<>-_@ embdlogits\n", max_size=24) | st.text(max_size=24))
def test_what_is_read_prints_the_same_and_the_rest_is_refused(text: str) -> None:
    for parse in (parse_writer, parse_reader, parse_edge):
        with suppress(GraphError):
            assert str(parse(text)) == text


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a",
        "a1.h",
        "a01",
        "m-1",
        "a1.h2<x>",
        "a1.h2<q",
        "A1",
        "m1 ",
        "m1\n",
        "m٣",
        "a1.h2<q>",
        "logits",
        "m1@",
        "m1@@S",
        "m1@-",
        "m1@S2<q>",
        "m1@01",
    ],
)
def test_refused_writers(name: str) -> None:
    with pytest.raises(GraphError, match="is not a writer"):
        parse_writer(name)


@pytest.mark.parametrize("name", ["embed->", "->logits", "embed", "embed->m0->logits", "embed -> m0", "embed@IO->m0->logits@IO"])
def test_refused_edges(name: str) -> None:
    with pytest.raises(GraphError):
        parse_edge(name)


def test_an_edge_has_both_ends_at_one_position() -> None:
    graph = Graph(GraphShape(1, 2, 2, positions=("IO", "END")), Scope.named("qkv, positions=roles"))
    assert graph.find("embed->a0.h1<k>@IO") == graph.find("embed@IO->a0.h1<k>@IO")
    assert str(graph.edge(*graph.find("embed->a0.h1<k>@IO"))) == "embed@IO->a0.h1<k>@IO"
    for name, kind in [
        ("embed@IO->a0.h1<k>@END", GraphError),
        ("embed@IO->a0.h1<k>", UnknownNameError),
        ("embed@S->a0.h1<k>@S", UnknownNameError),
    ]:
        with pytest.raises(kind):
            graph.find(name)
