"""Searches in which most is decided already equal the sequential search; descents stay inside what was kept above."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import GraphError, SettingsError
from subcircuit.graph import Circuit, Graph, Scope, coarsen, parse_scope, refine
from subcircuit.search import Acdc, acdc, coarse_to_fine, zoom
from subcircuit.search.rules import Within
from subcircuit.search.zoom import descent
from tests.behaviours import random_behaviour
from tests.oracles import SequentialAcdc
from tests.tiny_models import narrow, tiny

CONFIG = Acdc(0.05)


def behaviour_of(model, seed=5):
    return random_behaviour(model, seed, [5, 4], 1, "kl_divergence", "resample")


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
@settings(max_examples=1)
@given(
    seed=st.integers(0, 2**20),
    scope=st.sampled_from(["head, a1=block", "block"]),
    shares=st.tuples(*[st.floats(0, 1)] * 2),
)
def test_a_search_within_decides_as_the_sequential_one_does(family, seed, scope, shares):
    model = narrow(tiny(family, dtype=torch.float64), 3)
    graph, behaviour, rng = Graph.of(model.config, Scope.named(scope)), behaviour_of(model, seed), random.Random(seed)
    kept = graph.edges & torch.tensor([[rng.random() < shares[0] for _ in graph.readers] for _ in graph.writers])
    tried = kept & torch.tensor([[rng.random() < shares[1] for _ in graph.readers] for _ in graph.writers])
    within = Within(kept, tried)
    found = acdc(model, graph, behaviour, CONFIG, within=within).circuit.kept
    assert found.equal(SequentialAcdc(model, graph, behaviour, CONFIG, within=within).run().kept)
    assert not (found & ~kept).any()


@pytest.mark.parametrize(("component", "into"), [("m1", "neuron"), ("a1", "head"), ("a1", "qkv"), ("a2.h1", "qkv")])
def test_zooming_decides_inside_alone_and_as_the_sequential_search_does(component, into):
    model = narrow(tiny("gpt2", dtype=torch.float64), 3)
    behaviour, scope = behaviour_of(model), Scope("block" if component == "a1" else "head")
    circuit = Circuit.full(Graph.of(model.config, scope))
    found = zoom(model, circuit, component, into, behaviour, CONFIG).circuit
    assert found.graph.scope == scope.at(component, into)
    refined = refine(circuit, found.graph).kept
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
    slow = SequentialAcdc(model, found.graph, behaviour, CONFIG, within=Within(refined, tried)).run()
    assert found.kept.equal(slow.kept)
    assert int((refined & ~found.kept).sum()) > 0


def test_a_descent_stays_inside_what_the_level_above_kept_and_adds_up_its_cost():
    model = narrow(tiny("gpt2", dtype=torch.float64), 3)
    behaviour, scope = behaviour_of(model), Scope.named("qkv, m1=neuron")
    blocks = acdc(model, Graph.of(model.config, Scope("block")), behaviour, CONFIG)
    found = coarse_to_fine(model, scope, behaviour, CONFIG)
    assert found.circuit.graph.scope == scope
    assert not (coarsen(found.circuit, blocks.circuit.graph).kept & ~blocks.circuit.kept).any()
    assert found.notes["block_trials"] == blocks.trials
    assert found.notes["block_edges"] == blocks.circuit.n_edges
    assert found.trials == sum(found.notes[f"{level}_trials"] for level in ("block", "head", "qkv", "neuron"))
    # with nothing to cut at any level, nothing is lost
    everything = coarse_to_fine(model, Scope("head"), behaviour, Acdc(0.0, absolute=True))
    direct = acdc(model, Graph.of(model.config, Scope("head")), behaviour, Acdc(0.0, absolute=True))
    assert everything.circuit.kept.equal(direct.circuit.kept)


def test_descents_end_at_their_scope():
    for text in ("block", "qkv", "qkv, m5=neuron, a9=block", "head, a9=qkv, a9.h3=head", "neuron, m0=block, a3=head"):
        steps = [scope for _, scope in descent(parse_scope(text))]
        assert steps[-1] == parse_scope(text)
    assert [str(s) for _, s in descent(parse_scope("qkv, a9=block"))] == ["block", "head, a9=block", "qkv, a9=block"]


@pytest.mark.parametrize(
    ("component", "into", "message"),
    [
        ("m9", "neuron", "not in the circuit"),
        ("m0", "neuron", "not in the circuit"),
        ("m1", "qkv", "has no level 'qkv': choose block, neuron"),
        ("a1.h2", "head", "at level head already"),
        ("a1", "block", "at level head already"),
        ("m1", "block", "none is coarser than block"),
        ("q1", "head", "is no component"),
    ],
)
def test_what_cannot_be_zoomed_into_is_refused(component, into, message):
    model = narrow(tiny("gpt2", dtype=torch.float64), 3)
    circuit = Circuit.of_edges(
        Graph.of(model.config, Scope("head")), ["embed->m1", "m1->a2.h0", "a1.h2->logits", "a2.h0->logits"]
    )
    with pytest.raises(GraphError, match=message):
        zoom(model, circuit, component, into, behaviour_of(model), CONFIG)


def test_only_a_search_that_cuts_descends():
    model = narrow(tiny("gpt2", dtype=torch.float64), 3)
    with pytest.raises(SettingsError, match="noising"):
        coarse_to_fine(model, Scope("qkv"), behaviour_of(model), Acdc(0.1, direction="both"))


def test_descents_and_zooms_go_into_experts():
    steps = [(level, str(scope)) for level, scope in descent(parse_scope("expert"))]
    assert steps == [("block", "block"), ("head", "head"), ("qkv", "qkv"), ("expert", "expert")]
    assert [str(scope) for _, scope in descent(parse_scope("block, m0=expert, m1=neuron"))] == [
        "block",
        "block, m1=neuron",
        "block, m0=expert, m1=neuron",
    ]
    model = tiny("qwen2_moe", dtype=torch.float64)
    behaviour, scope = behaviour_of(model), Scope("block")
    graph = Graph.of(model.config, scope.at("m2", "expert"))
    found = zoom(model, Circuit.full(Graph.of(model.config, scope)), "m2", "expert", behaviour, CONFIG).circuit
    inside = torch.tensor([["m2" in f"{w}->{r}" for r in graph.readers] for w in graph.writers])
    within = Within(graph.edges, graph.edges & inside)
    assert found.kept.equal(SequentialAcdc(model, graph, behaviour, CONFIG, within=within).run().kept)
    whole = Circuit.full(Graph.of(tiny("qwen2_moe").config, Scope("expert")))
    with pytest.raises(GraphError, match="m1 has no experts; those that have are m0, m2"):
        zoom(model, Circuit.full(Graph.of(model.config, scope)), "m1", "expert", behaviour, CONFIG)
    with pytest.raises(GraphError, match="m0 is at level expert already"):
        zoom(model, whole, "m0", "expert", behaviour, CONFIG)
