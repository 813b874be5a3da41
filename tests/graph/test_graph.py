"""The topology: published counts, and edges that exist exactly if the writer has written when the reader reads."""

import pytest
from hypothesis import given

from subcircuit.errors import GraphError, UnknownNameError
from subcircuit.graph import Graph, GraphShape, HeadInput, Scope
from tests.graph.strategies import graphs
from tests.tiny_models import tiny


def written_before_read(graph: Graph) -> set[str]:
    """The edges, by acting out a forward pass: who has written when somebody reads."""
    shape, scope = graph.shape, graph.scope
    written = ["token_embed", "pos_embed"] if scope.split_embeddings else ["embed"]
    edges: set[str] = set()
    for layer in range(shape.n_layers):
        levels = [scope.of_head(layer, head) for head in range(shape.n_heads)]
        heads = [f"a{layer}"] if levels[0] == "block" else [f"a{layer}.h{head}" for head in range(shape.n_heads)]
        group = shape.n_heads // shape.n_kv_heads if scope.kv == "grouped" else 1
        inputs = [f"a{layer}"] if levels[0] == "block" else []
        inputs += [f"a{layer}.h{head}" for head, level in enumerate(levels) if level == "head"]
        inputs += [f"a{layer}.h{head}<q>" for head, level in enumerate(levels) if level == "qkv"]
        shared = sorted({head // group for head, level in enumerate(levels) if level == "qkv"})
        inputs += [f"a{layer}.h{head}<{part}>" for part in "kv" for head in shared]
        neurons = [f"m{layer}.n{n}" for n in range(shape.neurons)] if scope.of_mlp(layer) == "neuron" else [f"m{layer}"]
        if layer in shape.mixtures and scope.of_mlp(layer) == "expert":
            neurons = [f"m{layer}.e{e}" for e in range(shape.experts)] + [f"m{layer}.shared"] * shape.shared_expert
        mlps = neurons if shape.mlps else []
        read = [f"m{layer}<router>", *mlps] if mlps and neurons[0].endswith(".e0") else mlps
        steps = [(inputs + read, heads + mlps)] if shape.parallel else [(inputs, heads), (read, mlps)]
        for readers, writers in steps:
            edges |= {f"{writer}->{reader}" for writer in written for reader in readers}
            written += writers
    edges |= {f"{writer}->logits" for writer in written}
    return {edge.replace("->", f"@{p}->") + f"@{p}" for edge in edges for p in shape.positions} if shape.positions else edges


@pytest.mark.slow
@given(graphs(positioned=True))
def test_an_edge_exists_if_and_only_if_it_is_written_before_it_is_read(graph: Graph) -> None:
    names = {str(graph.edge(w, r)) for w, r in graph.edges.nonzero().tolist()}
    assert names == written_before_read(graph)
    assert graph.n_edges == len(names)


@pytest.mark.parametrize(
    ("shape", "nodes", "edges", "with_whole_inputs"),
    [
        pytest.param(GraphShape(12, 12, 12), 158, 32_491, 32_923, id="GPT-2 small"),
        pytest.param(GraphShape(4, 8, 8, mlps=False), 34, 1_281, 1_377, id="attention only, 4 layers"),
        pytest.param(GraphShape(2, 8, 8, mlps=False), 18, 257, 305, id="attention only, 2 layers"),
        pytest.param(GraphShape(30, 9, 3), 302, 123_211, 123_211 + 810, id="SmolLM2-135M"),
    ],
)
def test_published_counts(shape: GraphShape, nodes: int, edges: int, with_whole_inputs: int) -> None:
    graph = Graph(shape, Scope())
    whole_inputs = sum(isinstance(reader, HeadInput) for reader in graph.readers)
    assert (len(graph.writers) + 1, graph.n_edges, graph.n_edges + whole_inputs) == (nodes, edges, with_whole_inputs)


def test_counts_at_other_scopes() -> None:
    shape = GraphShape(2, 4, 2, learned_positions=True)
    # block: embed and what was written before it, for each of a0 m0 a1 m1 logits
    assert Graph(shape, Scope("block")).n_edges == 1 + 2 + 3 + 4 + 5
    # head: 4 heads read 1 writer, m0 reads 5, 4 heads read 6, m1 reads 10, logits 11
    assert Graph(shape, Scope("head")).n_edges == 4 * 1 + 5 + 4 * 6 + 10 + 11
    # grouped: 4 queries, 2 keys, 2 values a layer
    assert Graph(shape, Scope("qkv", "grouped")).n_edges == 8 * 1 + 5 + 8 * 6 + 10 + 11
    # one writer more for each reader
    split = Graph(shape, Scope("head", split_embeddings=True))
    assert split.n_edges == Graph(shape, Scope("head")).n_edges + len(split.readers)


def test_a_parallel_block_s_heads_do_not_feed_its_mlp() -> None:
    graph = Graph(GraphShape(2, 2, 2, parallel=True), Scope("head"))
    assert graph.edges[graph.writer_index[graph.writers[1]], graph.reader_index[graph.readers[-1]]]
    with pytest.raises(GraphError, match="not computed before"):
        graph.find("a1.h0->m1")
    graph.find("a0.h0->m1")


@pytest.mark.slow
@given(graphs(positioned=True))
def test_order_is_that_of_computation(graph: Graph) -> None:
    """A reader that a writer feeds comes after every reader on which that writer depends."""
    for index, reader in enumerate(graph.readers):
        for writer in graph.writers_of(reader):
            assert not graph.edges[writer, : index + 1].any()


@given(graphs(positioned=True))
def test_every_writer_but_embeddings_depends_on_a_reader(graph: Graph) -> None:
    dependent = {writer for reader in graph.readers for writer in graph.writers_of(reader)}
    embeddings = 2 if graph.scope.split_embeddings else 1
    assert dependent == set(range(embeddings, len(graph.writers)))


def test_a_graph_follows_its_model_s_config() -> None:
    gpt2, llama, gemma = (tiny(family).config for family in ("gpt2", "llama", "gemma2"))
    assert Graph.of(gpt2).shape.learned_positions
    assert Graph.of(llama).shape.n_kv_heads == llama.n_kv_heads
    assert Graph.of(gemma).shape.coupled_heads
    with pytest.raises(GraphError, match="no learned positions"):
        Graph.of(llama, Scope(split_embeddings=True))


def test_unknown_names_suggest_the_nearest() -> None:
    graph = Graph(GraphShape(2, 2, 2), Scope())
    with pytest.raises(UnknownNameError, match=r"'a0\.h1'"):
        graph.find("a0.h7->logits")
    with pytest.raises(UnknownNameError, match=r"a1\.h1<k>"):
        graph.find("embed->a1.h9<k>")
    with pytest.raises(UnknownNameError, match="'head'"):
        Scope.named("heads")
    with pytest.raises(UnknownNameError, match="'grouped'"):
        Scope.named("qkv", "groupd")
    assert Scope.named("head", "grouped") == Scope("head", "grouped")


def test_a_scope_that_speaks_of_what_a_model_has_not_is_refused() -> None:
    gpt2, bare = tiny("gpt2").config, tiny("attention_only").config
    for config, scope, message in [
        (gpt2, "m3=neuron", "no m3, this model has layers 0 to 2"),
        (gpt2, "a1.h4=head", "no a1.h4, this model has heads 0 to 3"),
        (bare, "m1=neuron", "no MLPs"),
        (bare, "neuron", "no MLPs"),
    ]:
        with pytest.raises(GraphError, match=message):
            Graph.of(config, Scope.named(scope))


def test_what_tells_graphs_apart_is_said_in_words() -> None:
    one, other = Graph(GraphShape(3, 4, 4), Scope()), Graph(GraphShape(12, 4, 2, parallel=True), Scope("head"))
    assert one.unlike(one) == ""
    assert one.unlike(other) == (
        "scope: qkv and head; layers: 3 and 12; key/value heads per layer: 4 and 2; attention and MLP in parallel: no and yes"
    )
