"""Routing is found to carry a behaviour where it does by construction, and not where it does not."""

from dataclasses import replace
from math import isnan

import pytest
import torch

from subcircuit.errors import ModelError, SettingsError
from subcircuit.evaluate import routing
from subcircuit.graph import Graph, Scope
from subcircuit.search import Acdc, Problem
from subcircuit.search.eap import Eap
from subcircuit.search.exact import Exact
from subcircuit.tasks import Roles
from subcircuit.units.experts import mixture_weights
from tests.oracles import NodeByNode, shares_of_one
from tests.oracles import norm as norm_of
from tests.planted_experts import by_contents, by_routing, planted_task
from tests.problems import random_problem
from tests.search.autograd import Autograd
from tests.tiny_models import tiny


def problem_of(model, scope=None):
    return Problem.of(model, planted_task(model), "logit_difference", scope=scope)


@pytest.mark.parametrize(("make", "shares"), [(by_routing, (1.0, 0.0)), (by_contents, (0.0, 1.0))])
def test_what_carries_the_behaviour_is_told_from_what_does_not(make, shares):
    found = routing(problem_of(make()))
    assert found.whole == pytest.approx(2.0)
    (layer,) = found.layers
    by_source = {effects.source: effects for effects in layer.sources}
    assert list(by_source) == ["embed", "a0"]
    for effects in (found.total, layer.effects, by_source["embed"]):
        assert (found.share(effects.routing), found.share(effects.contents)) == pytest.approx(shares)
    assert (by_source["a0"].routing, by_source["a0"].contents) == (0, 0)


@pytest.mark.parametrize("make", [by_routing, by_contents])
def test_positions_go_where_the_router_sends_them_whether_it_matters_or_not(make):
    problem = problem_of(make())
    *_, last = routing(problem).layers[0].roles
    assert (last.role, last.positions, last.moved) == ("2", 3, 1.0)
    assert last.clean.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert last.corrupted.tolist() == pytest.approx([1 / 3, 2 / 3])
    roles = Roles.from_positions([{"END": [2]}] * 3, [3] * 3)
    named = routing(replace(problem, task=replace(problem.task, roles=roles))).layers[0].roles
    assert {(r.role, r.positions, r.moved) for r in named} == {("rest", 6, 0.0), ("END", 3, 1.0)}


def test_acdc_finds_the_route_by_its_edges_and_gradients_do_not_see_it():
    problem = problem_of(by_routing(), "expert")
    true = {"embed->m0<router>", "m0.e0->logits", "m0.e1->logits"}
    assert set(Acdc(0.1).search(problem).circuit.names) == true
    effects = Exact().search(problem)
    assert effects["embed->m0<router>"] == pytest.approx(2.0)
    assert effects["embed->m0.e0"] == effects["embed->m0.e1"] == 0
    # the share of the one expert chosen is 1 wherever it is chosen
    assert Eap().search(problem)["embed->m0<router>"] == pytest.approx(0, abs=1e-6)


def test_frequencies_and_effects_are_those_of_runs_node_by_node():
    model = tiny("qwen2_moe", dtype=torch.float64)
    graph = Graph.of(model.config, Scope.named("block, m0=expert, m2=expert"))
    problem = random_problem(model, graph, 3, [6, 5, 7], 1, "negative_log_likelihood", "resample")
    found = routing(problem, detailed=1, batch_size=2)
    slow = Autograd(problem)
    for layer in found.layers:
        cut = graph.edges.clone()
        cut[:, graph.reader_index[next(r for r in graph.readers if str(r) == f"m{layer.layer}<router>")]] = False
        assert layer.effects.routing == pytest.approx(float(slow.loss(cut) - slow.loss(graph.edges)), abs=1e-9)
    assert sorted(len(layer.sources) > 0 for layer in found.layers) == [False, True]
    (layer,) = found.most_effective(1)
    assert layer.sources
    end, rest = {r.role: r for r in found.layers[0].roles}["END"], {r.role: r for r in found.layers[0].roles}["rest"]
    assert (end.positions, rest.positions) == (3, 15)
    assert float(rest.clean.sum()) == pytest.approx(2.0)
    counts = torch.zeros(4, dtype=torch.float64)
    nothing = torch.zeros(len(graph.writers), 7, model.config.d_model, dtype=torch.float64)
    for ids in problem.task.clean.to_lists():
        node = NodeByNode(model, graph, graph.edges, nothing[:, : len(ids)])
        values, _ = node.run(ids)
        read = next(r for r in graph.readers if str(r) == "m0<router>")
        before = {w: v for w, v in values.items() if graph.edges[graph.writer_index[w], graph.reader_index[read]]}
        first = model.weights.layers[0]
        assert first.mlp_norm is not None
        x = norm_of(model, node.read(read, before), first.mlp_norm)
        counts += (shares_of_one(model, mixture_weights(model, 0), x[-1]) > 0).double()
    assert end.clean.tolist() == pytest.approx((counts / 3).tolist())


def test_what_has_no_experts_and_no_detail_is_refused_and_equal_prompts_have_no_shares():
    dense = tiny("llama")
    with pytest.raises(ModelError, match=r"tiny-llama \(llama\) has no mixture of experts"):
        routing(random_problem(dense, Graph.of(dense.config), 1, [5], 1, "logit_difference", "resample"))
    problem = problem_of(by_routing())
    with pytest.raises(SettingsError, match="detailed is -1"):
        routing(problem, -1)
    found = routing(replace(problem, task=replace(problem.task, corrupted=problem.task.clean)))
    assert isnan(found.share(found.total.routing))
