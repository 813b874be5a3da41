"""Losses equal the node-by-node definition, whatever the batches; the ends are the model and the circuit without edges."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.engine import ABLATIONS, last_stream
from subcircuit.errors import GraphError, NumericalError, SettingsError
from subcircuit.evaluate import measure, measure_all
from subcircuit.evaluate.measure import Ends
from subcircuit.graph import Circuit, Graph, Scope
from subcircuit.tasks import metric
from tests.oracles import NodeByNode, ablated_slowly
from tests.problems import random_kept, random_problem
from tests.tiny_models import FAMILIES, tiny

METRICS = ["kl_divergence", "logit_difference", "accuracy", "match"]


def slow_losses(problem, kept):
    """Per-example loss of a circuit from one unpadded run an example."""
    model, graph, task, losses = problem.model, problem.graph, problem.task, []
    ablated = ablated_slowly(model, graph, task.corrupted, problem.ablation)
    for example, length in enumerate(task.clean.lengths.tolist()):
        part = task[example : example + 1]
        ids = task.clean.ids[example, :length].tolist()
        z, reference = (NodeByNode(model, graph, mask, ablated[example]).run(ids)[1] for mask in (kept, graph.edges))
        bound = problem.metric.bind(part.answers, reference[part.answers.pos])
        from subcircuit.engine.readout import readout_of

        losses.append(bound(readout_of(z[part.answers.pos], bound.needs)).mean())
    return torch.stack(losses)


@pytest.mark.parametrize("family", ["pythia", "gemma2"])
@settings(max_examples=3)
@given(
    seed=st.integers(0, 2**20),
    share=st.sampled_from([0.2, 0.8]),
    name=st.sampled_from(METRICS),
    ablation=st.sampled_from(sorted(ABLATIONS)),
    level=st.sampled_from(["block", "qkv"]),
    lengths=st.lists(st.integers(3, 6), min_size=1, max_size=3),
    batch_size=st.integers(1, 5),
)
def test_losses_are_those_of_the_definition(family, seed, share, name, ablation, level, lengths, batch_size):
    model = tiny(family, seed % 3, dtype=torch.float64)
    graph = Graph.of(model.config, Scope(level))
    problem = random_problem(model, graph, seed, lengths, 2, name, ablation)
    circuit = Circuit(graph, random_kept(graph.edges, seed, share))
    readings = measure(problem, [circuit, Circuit.full(graph)], batch_size)
    for losses, kept in (
        (readings.circuits[0], circuit.kept),
        (readings.model, graph.edges),
        (readings.empty, torch.zeros_like(graph.edges)),
    ):
        # where nearly everything is cut to zero, norms blow rounding up
        torch.testing.assert_close(losses, slow_losses(problem, kept), atol=1e-5, rtol=1e-5)
    assert torch.equal(readings.circuits[1], readings.model)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_rounding_is_what_float32_does_to_a_loss(family):
    precise = tiny(family, dtype=torch.float64)
    graph = Graph.of(precise.config)
    problem = random_problem(precise, graph, 4, [6, 5], 1, "logit_difference", "resample")
    circuit = Circuit(graph, random_kept(graph.edges, 4, 0.5))
    exact, rounded = (measure(replace(problem, model=precise.to(dtype=d)), [circuit]) for d in (torch.float64, torch.float32))
    for one, other in ((exact.circuits, rounded.circuits), (exact.model, rounded.model), (exact.empty, rounded.empty)):
        assert float((one - other).mean(-1).abs().max()) < rounded.rounding < 1e-3


@pytest.mark.slow
def test_several_metrics_at_once_are_each_as_alone():
    model = tiny("llama_gqa")
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 1, [5, 7, 4], 1, "logit_difference", "mean")
    circuits = [Circuit(graph, random_kept(graph.edges, seed, 0.5)) for seed in range(3)]
    together = measure_all(problem, circuits, [metric(name) for name in METRICS], 2)
    for name, readings in zip(METRICS, together, strict=True):
        alone = measure(replace(problem, metric=metric(name)), circuits, 2)
        assert torch.equal(readings.circuits, alone.circuits)
        assert torch.equal(readings.empty, alone.empty)


def test_what_cannot_be_measured_is_refused():
    model = tiny("gpt2")
    graph, other = Graph.of(model.config), Graph.of(model.config, Scope("head"))
    problem = random_problem(model, graph, 1, [5], 1, "logit_difference", "resample")
    with pytest.raises(GraphError, match="the graph is of another model"):
        replace(problem, model=tiny("pythia"))
    with pytest.raises(GraphError, match="different graphs"):
        measure(problem, [Circuit.full(other)])
    with pytest.raises(SettingsError, match="batch_size is 0"):
        measure(problem, [], 0)
    broken = replace(model, weights=replace(model.weights, W_E=model.weights.W_E * float("nan")))
    with pytest.raises(NumericalError, match="logit_difference of the whole model is nan on pair 1"):
        measure(replace(problem, model=broken), [])


@pytest.mark.slow
def test_ends_are_run_once_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 5, [6, 4, 5, 6, 3], 1, "logit_difference", "resample")
    circuits = [Circuit(graph, random_kept(graph.edges, seed, 0.4)) for seed in range(3)]
    metrics = problem.metric, metric("kl_divergence")
    expected = measure_all(problem, circuits, metrics, 2)
    runs = list[int]()
    module = import_module("subcircuit.evaluate.measure")
    monkeypatch.setattr(module, "last_stream", lambda *given: runs.append(1) or last_stream(*given))
    ends: Ends = {}
    for index, circuit in enumerate(circuits):
        found = measure_all(problem, [circuit], metrics, 2, ends=ends)
        for one, all_ in zip(found, expected, strict=True):
            assert torch.equal(one.circuits[0], all_.circuits[index])
            assert torch.equal(one.model, all_.model)
            assert torch.equal(one.empty, all_.empty)
    # three batches: the two ends of each once, and each of the three circuits
    assert len(runs) == 3 * 2 + 3 * 3
