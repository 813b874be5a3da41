"""Searches in which most is decided already equal the sequential search."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import GraphError
from subcircuit.graph import Circuit, Graph, Scope, resolve
from subcircuit.search import Acdc, zoom
from subcircuit.search.acdc_rules import Within
from tests.oracles import SequentialAcdc
from tests.problems import random_problem
from tests.tiny_models import narrow, tiny

CONFIG = Acdc(0.05)


def problem_of(model, graph, seed=5):
    return random_problem(model, graph, seed, [5, 4], 1, "kl_divergence", "resample")


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
@settings(max_examples=1)
@given(
    seed=st.integers(0, 2**20),
    scope=st.sampled_from(["head, a1=block", "block"]),
    shares=st.tuples(*[st.floats(0, 1)] * 2),
    coarse=st.booleans(),
)
def test_a_search_within_decides_as_the_sequential_one_does(family, seed, scope, shares, coarse):
    model = narrow(tiny(family, dtype=torch.float64), 3)
    graph, rng = Graph.of(model.config, Scope.named(scope)), random.Random(seed)
    problem = problem_of(model, graph, seed)
    kept = graph.edges & torch.tensor([[rng.random() < shares[0] for _ in graph.readers] for _ in graph.writers])
    tried = kept & torch.tensor([[rng.random() < shares[1] for _ in graph.readers] for _ in graph.writers])
    within, config = Within(kept, tried), replace(CONFIG, coarse_to_fine=coarse)
    found = config.search(problem, within=within).circuit.kept
    assert found.equal(SequentialAcdc(problem, config, within=within).run().kept)
    assert not (found & ~kept).any()


@pytest.mark.slow
@pytest.mark.parametrize(("component", "into"), [("m1", "neuron"), ("a1", "head"), ("a1", "qkv"), ("a2.h1", "qkv")])
def test_zooming_decides_inside_alone_and_as_the_sequential_search_does(component, into):
    model = narrow(tiny("gpt2", dtype=torch.float64), 3)
    scope = Scope("block" if component == "a1" else "head")
    circuit = Circuit.full(Graph.of(model.config, scope))
    problem = problem_of(model, circuit.graph)
    found = zoom(problem, circuit, component, into, CONFIG).circuit
    assert found.graph.scope == scope.at(component, into)
    refined = resolve(circuit, found.graph).kept
    inside = [
        any(
            str(end).replace("<", ".").startswith((component + ".", component + "<")) or str(end) == component
            for end in (e.writer, e.reader)
        )
        for e in Circuit(found.graph, refined).edges
    ]
    tried = torch.zeros_like(refined)
    for edge, is_in in zip(Circuit(found.graph, refined).edges, inside, strict=True):
        tried[found.graph.find(edge)] = is_in
    slow = SequentialAcdc(replace(problem, graph=found.graph), CONFIG, within=Within(refined, tried)).run()
    assert found.kept.equal(slow.kept)
    assert int((refined & ~found.kept).sum()) > 0


@pytest.mark.parametrize(
    ("component", "into", "message"),
    [
        ("m9", "neuron", "not in the circuit"),
        ("m0", "neuron", "not in the circuit"),
        ("m1", "qkv", "has no level 'qkv': choose block, neuron"),
        ("a1.h2", "head", "already at level head"),
        ("a1", "block", "already at level head"),
        ("m1", "block", "block is the coarsest level"),
        ("q1", "head", "is not a component"),
    ],
)
def test_what_cannot_be_zoomed_into_is_refused(component, into, message):
    model = narrow(tiny("gpt2", dtype=torch.float64), 3)
    circuit = Circuit.of_edges(
        Graph.of(model.config, Scope("head")), ["embed->m1", "m1->a2.h0", "a1.h2->logits", "a2.h0->logits"]
    )
    with pytest.raises(GraphError, match=message):
        zoom(problem_of(model, circuit.graph), circuit, component, into, CONFIG)


@pytest.mark.slow
def test_zooms_go_into_experts():
    model = tiny("qwen2_moe", dtype=torch.float64)
    scope = Scope("block")
    graph, blocks = Graph.of(model.config, scope.at("m2", "expert")), Circuit.full(Graph.of(model.config, scope))
    problem = problem_of(model, blocks.graph)
    found = zoom(problem, blocks, "m2", "expert", CONFIG).circuit
    inside = torch.tensor([["m2" in f"{w}->{r}" for r in graph.readers] for w in graph.writers])
    within = Within(graph.edges, graph.edges & inside)
    assert found.kept.equal(SequentialAcdc(replace(problem, graph=graph), CONFIG, within=within).run().kept)
    whole = Circuit.full(Graph.of(tiny("qwen2_moe").config, Scope("expert")))
    with pytest.raises(GraphError, match="m1 has no experts; the MLPs with experts are m0, m2"):
        zoom(problem, blocks, "m1", "expert", CONFIG)
    with pytest.raises(GraphError, match="m0 is already at level expert"):
        zoom(replace(problem, graph=whole.graph), whole, "m0", "expert", CONFIG)
