"""Mixtures resolved into router and experts: the invariants and oracles of every other level."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.engine import ABLATIONS, Resample, run_circuit, writer_values
from subcircuit.engine.forward import last_stream_of_nodes
from subcircuit.errors import GraphError
from subcircuit.graph import Graph, Scope
from subcircuit.search import Acdc
from subcircuit.search.atp_star import AtpStar
from subcircuit.search.eap import Eap
from subcircuit.search.exact import Exact
from tests.engine.agreement import assert_node_by_node, assert_sequential
from tests.engine.test_exact import Walk
from tests.engine.test_forward import LENGTHS, real
from tests.problems import random_problem, random_task
from tests.search.autograd import Autograd, assert_scores
from tests.tiny_models import tiny

MIXED = ["mixtral", "qwen2_moe"]
SCOPES = [Scope("expert"), Scope.named("head, m0=expert, a1=block")]


def drawn(family: str, data: st.DataObject, seed: int):
    model = tiny(family, seed % 3, dtype=torch.float64)
    return model, Graph.of(model.config, data.draw(st.sampled_from(SCOPES)))


def test_nodes_are_router_experts_and_the_shared_one_where_a_layer_has_them():
    graph = Graph.of(tiny("qwen2_moe").config, Scope("expert"))
    experts = [f"m{layer}.e{e}" for layer in (0, 2) for e in range(4)]
    named = {str(w) for w in graph.writers if str(w).startswith("m")}
    assert named == {*experts, "m0.shared", "m1", "m2.shared"}
    assert {str(r) for r in graph.readers if str(r).startswith("m")} == named | {"m0<router>", "m2<router>"}
    for edge in ("m0.e3->m2<router>", "a0.h1->m0.e2", "m0.shared->logits"):
        assert graph.edges[graph.find(edge)]
    with pytest.raises(GraphError, match="not computed before"):
        graph.find("m0.e1->m0<router>")


@pytest.mark.parametrize("family", MIXED)
def test_all_kept_is_the_model_all_cut_the_corrupted_run_and_writers_sum_to_the_stream(family):
    model = tiny(family, dtype=torch.float64)
    task = random_task(model, 1, LENGTHS)
    here = real(task.clean)
    for scope in SCOPES:
        graph = Graph.of(model.config, scope)
        ablated = Resample().values(model, graph, task.corrupted)
        kept, cut = (run_circuit(model, graph, m, task.clean, ablated) for m in (graph.edges, graph.edges & False))
        torch.testing.assert_close(kept[here], model(task.clean)[here], atol=1e-10, rtol=0)
        torch.testing.assert_close(cut[here], model(task.corrupted)[here], atol=1e-10, rtol=0)
        stream = writer_values(model, graph, task.clean).sum(0)
        torch.testing.assert_close(stream[here], model.stream(task.clean)[here], atol=1e-10, rtol=0)


@pytest.mark.parametrize("family", MIXED)
@settings(max_examples=4)
@given(data=st.data(), seed=st.integers(0, 2**20), share=st.sampled_from([0.3, 0.7]), ablation=st.sampled_from(sorted(ABLATIONS)))
@torch.no_grad()
def test_any_circuit_equals_the_node_by_node_definition(family, data, seed, share, ablation):
    model, graph = drawn(family, data, seed)
    task = random_task(model, seed, data.draw(st.lists(st.integers(3, 6), min_size=1, max_size=2)))
    assert_node_by_node(model, graph, task, seed, share, ablation)


@pytest.mark.parametrize("family", MIXED)
@settings(max_examples=2)
@given(
    data=st.data(),
    seed=st.integers(0, 2**20),
    ablation=st.sampled_from(sorted(ABLATIONS)),
    metric=st.sampled_from(["kl_divergence", "logit_difference"]),
)
@torch.no_grad()
def test_engine_equals_masked_forward(family, data, seed, ablation, metric):
    model, graph = drawn(family, data, seed)
    problem = random_problem(model, graph, seed, [5, 4], 2, metric, ablation)
    Walk(problem, data.draw(st.integers(1, 2)), random.Random(seed)).run()


@pytest.mark.parametrize("family", MIXED)
@settings(max_examples=1)
@given(seed=st.integers(0, 2**20))
def test_acdc_decides_as_the_sequential_search_does(family, seed):
    model = tiny(family, seed % 3, dtype=torch.float64)
    graph = Graph.of(model.config, Scope.named("block, m0-m2=expert" if family == "mixtral" else "block, m0=expert, m2=expert"))
    problem, config = random_problem(model, graph, seed, [4], 1, "kl_divergence", "resample"), Acdc(0.02)
    assert_sequential(problem, config)


@pytest.mark.parametrize("family", MIXED)
def test_eap_is_the_slope_of_the_loss_in_every_edge(family):
    model = tiny(family, dtype=torch.float64)
    for scope in SCOPES:
        graph = Graph.of(model.config, scope)
        problem = random_problem(model, graph, 5, [5, 4], 2, "logit_difference", "resample")
        assert_scores(Eap(1).search(problem), Autograd(problem).slope(graph.edges))


@torch.no_grad()
def test_exact_effects_are_differences_of_masked_runs():
    model = tiny("qwen2_moe", dtype=torch.float64)
    graph = Graph.of(model.config, Scope("expert"))
    problem = random_problem(model, graph, 5, [6], 1, "logit_difference", "resample")
    slow, scores = Autograd(problem), Exact().search(problem)
    whole = slow.loss(graph.edges)
    into = [(w, r) for w, r in graph.edges.nonzero().tolist() if str(graph.readers[r]).startswith("m")]
    for w, r in random.Random(2).sample(into, 30):
        kept = graph.edges.clone()
        kept[w, r] = False
        torch.testing.assert_close(scores.scores[w, r].double(), slow.loss(kept) - whole, atol=1e-6, rtol=1e-4)


def test_a_mask_on_nodes_is_a_mask_on_all_their_edges():
    model = tiny("qwen2_moe", dtype=torch.float64)
    task, graph = random_task(model, 4, LENGTHS), Graph.of(model.config, Scope("expert"))
    ablated = Resample().values(model, graph, task.corrupted)
    kept = torch.rand(len(graph.writers), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    nodes = last_stream_of_nodes(model, graph, kept, task.clean, ablated)
    logits = run_circuit(model, graph, kept[:, None].expand(-1, len(graph.readers)), task.clean, ablated)
    from subcircuit.model.components import unembed

    torch.testing.assert_close(unembed(model.config, model.weights, nodes), logits, atol=1e-9, rtol=1e-9)


def test_atp_star_scores_edges_into_attention_as_it_does_where_mixtures_are_whole():
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
        ("llama", "expert", "no experts, its MLPs are whole"),
        ("llama", "qkv, m1=expert", "m1 has no experts; no layer has"),
        ("qwen2_moe", "qkv, m1=expert", "m1 has no experts; those that have are m0, m2"),
        ("mixtral", "neuron", "m0 is a mixture of experts and resolves into these, not into neurons: write m0=expert"),
    ],
)
def test_levels_that_a_model_has_not_are_refused(family, scope, message):
    with pytest.raises(GraphError, match=message):
        Graph.of(tiny(family).config, Scope.named(scope))
