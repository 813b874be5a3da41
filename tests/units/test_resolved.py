"""MLPs resolved into neurons, mixtures resolved into router and experts: the invariants and oracles of every other level."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.engine import ABLATIONS, Resample, forward, run_circuit, writer_values
from subcircuit.engine.forward import last_stream_of_nodes
from subcircuit.errors import GraphError
from subcircuit.graph import Graph, GraphShape, Scope
from subcircuit.model import Transformer
from subcircuit.search import Acdc
from subcircuit.search.acdc_rules import HeadOrder
from subcircuit.search.atp_star import AtpStar
from subcircuit.search.eap import Eap
from subcircuit.search.exact import Exact
from subcircuit.units import mlp
from tests.engine.agreement import assert_node_by_node, assert_sequential
from tests.engine.test_exact import Walk
from tests.engine.test_forward import LENGTHS, real
from tests.problems import random_problem, random_task
from tests.search.autograd import Autograd, assert_scores
from tests.tiny_models import narrow, tiny

MIXED = ("mixtral", "qwen2_moe")
FAMILIES = ("gpt2", "pythia", "llama", "llama_gqa", "gemma2", *MIXED)
NEURONS = [Scope.named("qkv, m1=neuron"), Scope("neuron"), Scope.named("neuron, m0=block, a1=block, a2.h1=head, kv=grouped")]
EXPERTS = [Scope("expert"), Scope.named("head, m0=expert, a1=block")]
# small enough for a search that runs the whole model for every trial
SEARCHED = {"mixtral": ["block, m0-m2=expert"], "qwen2_moe": ["block, m0=expert, m2=expert"]}


def small(family: str, seed: int = 0, neurons: int = 5) -> Transformer:
    """A model with a handful of neurons, or with experts."""
    model = tiny(family, seed % 3, dtype=torch.float64)
    return model if family in MIXED else narrow(model, neurons)


def scopes(family: str) -> list[Scope]:
    return EXPERTS if family in MIXED else NEURONS


def drawn(family: str, data: st.DataObject, seed: int, among: list[Scope] | None = None) -> tuple[Transformer, Graph]:
    model = small(family, seed, 3)
    return model, Graph.of(model.config, data.draw(st.sampled_from(among or scopes(family))))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_all_kept_is_the_model_all_cut_the_corrupted_run_and_writers_sum_to_the_stream(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # more neurons than run at once
    monkeypatch.setattr(mlp, "_AT_ONCE", 2)
    model = small(family)
    task = random_task(model, 1, LENGTHS)
    here = real(task.clean)
    for scope in scopes(family):
        graph = Graph.of(model.config, scope)
        ablated = Resample().values(model, graph, task.corrupted)
        kept, cut = (run_circuit(model, graph, m, task.clean, ablated) for m in (graph.edges, graph.edges & False))
        torch.testing.assert_close(kept[here], model(task.clean)[here], atol=1e-10, rtol=0)
        torch.testing.assert_close(cut[here], model(task.corrupted)[here], atol=1e-10, rtol=0)
        biases = [bias for unit in graph.units if (bias := unit.bias(model)) is not None]
        stream = writer_values(model, graph, task.clean).sum(0) + sum(biases, torch.zeros(()))
        torch.testing.assert_close(stream[here], model.stream(task.clean)[here], atol=1e-10, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=3)
@given(data=st.data(), seed=st.integers(0, 2**20), share=st.sampled_from([0.3, 0.7]), ablation=st.sampled_from(sorted(ABLATIONS)))
@torch.no_grad()
def test_any_circuit_equals_the_node_by_node_definition(
    family: str, data: st.DataObject, seed: int, share: float, ablation: str
) -> None:
    model, graph = drawn(family, data, seed)
    task = random_task(model, seed, data.draw(st.lists(st.integers(3, 6), min_size=1, max_size=2)))
    assert_node_by_node(model, graph, task, seed, share, ablation)


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_on_nodes_are_masks_on_all_their_edges(family: str) -> None:
    model = small(family)
    task = random_task(model, 1, [5, 4])
    graph = Graph.of(model.config, Scope("expert" if family in MIXED else "neuron"))
    ablated = Resample().values(model, graph, task.corrupted)
    mask = torch.rand(len(graph.writers), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    nodes = last_stream_of_nodes(model, graph, mask, task.clean, ablated)
    edges = forward.last_stream(model, graph, mask[:, None] * graph.edges, task.clean, ablated)
    torch.testing.assert_close(nodes, edges, atol=1e-9, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "pythia", "llama_gqa", "gemma2", *MIXED])
@settings(max_examples=2)
@given(
    data=st.data(),
    seed=st.integers(0, 2**20),
    ablation=st.sampled_from(sorted(ABLATIONS)),
    metric=st.sampled_from(["kl_divergence", "logit_difference"]),
)
@torch.no_grad()
def test_engine_equals_masked_forward(family: str, data: st.DataObject, seed: int, ablation: str, metric: str) -> None:
    model, graph = drawn(family, data, seed)
    problem = random_problem(model, graph, seed, [5, 4], 2, metric, ablation)
    Walk(problem, data.draw(st.integers(1, 2)), random.Random(seed)).run()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "pythia", *MIXED])
@settings(max_examples=1)
@given(data=st.data(), seed=st.integers(0, 2**20), order=st.sampled_from(["descending", "ascending"]))
def test_acdc_decides_as_the_sequential_search_does(family: str, data: st.DataObject, seed: int, order: HeadOrder) -> None:
    model, graph = drawn(family, data, seed, [Scope.named(text) for text in SEARCHED.get(family, ())])
    problem, config = random_problem(model, graph, seed, [4], 1, "kl_divergence", "resample"), Acdc(0.02, head_order=order)
    assert_sequential(problem, config)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_eap_is_the_slope_of_the_loss_in_every_edge(family: str) -> None:
    model = small(family)
    for scope in scopes(family):
        graph = Graph.of(model.config, scope)
        problem = random_problem(model, graph, 5, [5, 4], 2, "logit_difference", "resample")
        assert_scores(Eap(1).search(problem), Autograd(problem).slope(graph.edges))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "scope"), [("llama", NEURONS[2]), ("gemma2", NEURONS[2]), ("qwen2_moe", EXPERTS[0])])
@torch.no_grad()
def test_exact_effects_are_differences_of_masked_runs(family: str, scope: Scope) -> None:
    model = small(family)
    graph = Graph.of(model.config, scope)
    problem = random_problem(model, graph, 5, [4], 1, "logit_difference", "resample")
    slow, scores = Autograd(problem), Exact().search(problem)
    whole = slow.loss(graph.edges)
    edges: list[tuple[int, int]] = graph.edges.nonzero().tolist()
    into_mlps = [(w, r) for w, r in edges if str(graph.readers[r]).startswith("m")]
    for w, r in (*random.Random(2).sample(edges, 10), *random.Random(2).sample(into_mlps, 20)):
        kept = graph.edges.clone()
        kept[w, r] = False
        torch.testing.assert_close(scores.scores[w, r].double(), slow.loss(kept) - whole, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_atp_star_scores_single_heads_and_neurons_as_it_does_at_their_own_level() -> None:
    """Of heads that are resolved alike, scores do not depend on how the rest is resolved."""
    model = narrow(tiny("llama_gqa", dtype=torch.float64))
    problem = random_problem(model, Graph.of(model.config), 5, [5, 4], 1, "logit_difference", "resample")
    mixed, head, qkv = (
        AtpStar(grad_drop=False).search(replace(problem, graph=Graph.of(model.config, Scope.named(scope))))
        for scope in ("head, a1.h2=qkv, m2=neuron", "head", "qkv")
    )
    for edge in ("embed->a1.h2<q>", "a0.h1->a1.h2<k>", "m0->a1.h2<v>"):
        assert mixed[edge] == pytest.approx(qkv[edge], rel=1e-5)
    for edge in ("embed->a1.h1", "m0->a2.h0", "a0.h0->m1"):
        assert mixed[edge] == pytest.approx(head[edge], rel=1e-5)
    # to first order an edge into an MLP is the sum of those into its neurons
    assert sum(mixed[f"a2.h1->m2.n{n}"] for n in range(5)) == pytest.approx(head["a2.h1->m2"], rel=1e-4)


def test_a_graph_too_large_for_a_matrix_counts_its_edges_and_refuses_the_matrix() -> None:
    graph = Graph(GraphShape(6, 9, 3, neurons=1536), Scope("neuron"))
    # every neuron reads and is read: 1536² for each pair of layers, and what heads and embedding add
    assert graph.n_edges > 1536**2 * 6 * 5 // 2
    with pytest.raises(GraphError, match=r"[0-9]{2},[0-9]{3},[0-9]{3} edges: its mask would have"):
        graph.edges  # noqa: B018


def test_nodes_are_router_experts_and_the_shared_one_where_a_layer_has_them() -> None:
    graph = Graph.of(tiny("qwen2_moe").config, Scope("expert"))
    experts = [f"m{layer}.e{e}" for layer in (0, 2) for e in range(4)]
    named = {str(w) for w in graph.writers if str(w).startswith("m")}
    assert named == {*experts, "m0.shared", "m1", "m2.shared"}
    assert {str(r) for r in graph.readers if str(r).startswith("m")} == named | {"m0<router>", "m2<router>"}
    for edge in ("m0.e3->m2<router>", "a0.h1->m0.e2", "m0.shared->logits"):
        assert graph.edges[graph.find(edge)]
    with pytest.raises(GraphError, match="not computed before"):
        graph.find("m0.e1->m0<router>")


@pytest.mark.slow
def test_atp_star_scores_edges_into_attention_as_it_does_where_mixtures_are_whole() -> None:
    model = tiny("mixtral", dtype=torch.float64)
    resolved, whole = (
        AtpStar(False).search(random_problem(model, graph, 5, [5, 4], 1, "logit_difference", "resample"))
        for graph in (Graph.of(model.config, Scope("expert")), Graph.of(model.config))
    )
    for edge in ("embed->a1.h2<q>", "a0.h1->a1.h2<k>", "a1.h0->logits"):
        assert resolved[edge] == pytest.approx(whole[edge], rel=1e-5)
    # to first order, an edge into a mixture is the sum of those into its router and its experts
    parts = ["m2<router>", *(f"m2.e{e}" for e in range(4))]
    assert sum(resolved[f"a1.h1->{part}"] for part in parts) == pytest.approx(whole["a1.h1->m2"], rel=1e-4)


@pytest.mark.parametrize(
    ("family", "scope", "message"),
    [
        ("llama", "expert", "no mixtures of experts"),
        ("llama", "qkv, m1=expert", "m1 has no experts; no layer of this model has experts"),
        ("qwen2_moe", "qkv, m1=expert", "m1 has no experts; the MLPs with experts are m0, m2"),
        ("mixtral", "neuron", "m0 is a mixture of experts and divides into experts, not into neurons: write m0=expert"),
    ],
)
def test_levels_that_a_model_has_not_are_refused(family: str, scope: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Graph.of(tiny(family).config, Scope.named(scope))
