"""Random graphs, circuits and records."""

from dataclasses import replace

import torch
from hypothesis import strategies as st

from subcircuit.graph import Attention, Circuit, Graph, GraphShape, MethodRecord, ModelRecord, Record, Scope, TaskRecord
from subcircuit.graph.scope import COMPONENT_LEVELS, KEY_VALUES, POSITIONS, KeyValues, Level, Override


@st.composite
def scopes(draw: st.DrawFn, layers: int = 12, heads: int = 3, mlps: bool = True, learned: bool = True) -> Scope:
    """Any scope of a model with so many layers and heads."""
    of_attention: tuple[Level, ...] = COMPONENT_LEVELS[Attention]
    attention = draw(st.dictionaries(st.integers(0, layers - 1), st.sampled_from(of_attention), max_size=4))
    of_everything: tuple[Level, ...] = (*of_attention, "neuron") if mlps else of_attention
    level = draw(st.sampled_from(of_everything))
    overrides: list[Override] = []
    overrides.extend((f"a{layer}", chosen) for layer, chosen in attention.items())
    for layer in draw(st.lists(st.integers(0, layers - 1), max_size=3)):
        if attention.get(layer, level) != "block":
            overrides.append((f"a{layer}.h{draw(st.integers(0, heads - 1))}", draw(st.sampled_from(["head", "qkv"]))))
    if mlps:
        of_mlps: tuple[Level, ...] = ("block", "neuron")
        neurons = draw(st.dictionaries(st.integers(0, layers - 1), st.sampled_from(of_mlps), max_size=4))
        overrides.extend((f"m{layer}", chosen) for layer, chosen in neurons.items())
    kv: KeyValues = draw(st.sampled_from(KEY_VALUES))
    return Scope(level, kv, learned and draw(st.booleans()), tuple(overrides), draw(st.sampled_from(POSITIONS)))


@st.composite
def graphs(draw: st.DrawFn, most_layers: int = 3, positioned: bool = False) -> Graph:
    kv_heads = draw(st.integers(1, 2))
    shape = GraphShape(
        n_layers=draw(st.integers(1, most_layers)),
        n_heads=kv_heads * draw(st.integers(1, 3)),
        n_kv_heads=kv_heads,
        mlps=draw(st.booleans()),
        parallel=draw(st.booleans()),
        learned_positions=draw(st.booleans()),
        coupled_heads=draw(st.booleans()),
    )
    scope = draw(scopes(shape.n_layers, shape.n_heads, shape.mlps, shape.learned_positions))
    if shape.mlps and draw(st.booleans()):
        layers = draw(st.lists(st.integers(0, shape.n_layers - 1), min_size=1, unique=True))
        shape = replace(shape, mixtures=tuple(sorted(layers)), experts=draw(st.integers(1, 3)), shared_expert=draw(st.booleans()))
        for layer in layers:
            scope = scope.at(f"m{layer}", draw(st.sampled_from(["block", "expert"])))
    scope = scope if positioned else replace(scope, positions="all")
    positions = {"all": (), "each": ("0", "1", "2"), "roles": ("IO", "S1+1")}[scope.positions]
    shape = replace(shape, positions=positions, ordered=scope.positions == "each" and draw(st.booleans()))
    resolved = any(scope.of_mlp(layer) == "neuron" for layer in range(shape.n_layers))
    return Graph(replace(shape, neurons=draw(st.integers(1, 3)) if resolved else 0), scope)


@st.composite
def circuits(draw: st.DrawFn, graph: Graph | None = None, positioned: bool = False) -> Circuit:
    graph = draw(graphs(positioned=positioned)) if graph is None else graph
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    share = draw(st.sampled_from([0.05, 0.2, 0.5, 0.9]))
    return Circuit(graph, graph.edges & (torch.rand(graph.edges.shape, generator=generator) < share))


def record() -> Record:
    return Record(
        model=ModelRecord(name="tiny/modèle", revision=None, config="c0ffee", tokenizer="7ea", dtype="float32"),
        task=TaskRecord(name="ioi", parameters={"examples": 8, "bos": "auto"}, digest="d16e57"),
        method=MethodRecord(name="acdc", parameters={"threshold": 0.02, "whole_input": True, "batch_size": None}),
        ablation="resample",
        metric="kl_divergence",
        results={
            "metric_model": 0.0,
            "metric_circuit": 0.25,
            "metric_corrupted": 4.5,
            "kl_circuit": 0.25,
            "logit_difference_model": 4.0,
            "logit_difference_circuit": 3.0,
            "logit_difference_corrupted": -1.0,
            "trials": 1234,
            "borderline": 2,
            "seconds": 60.0,
            "forward_seconds": 0.25,
        },
        versions={"subcircuit": "0.1.0", "torch": "2.13.0"},
        seed=7,
    )
