"""Every method from a model to a recorded circuit: one signature, selections, refusals, and hybrid's promises."""

from dataclasses import replace

import pytest
import torch

from subcircuit.engine import ABLATIONS, run_circuit
from subcircuit.errors import GraphError, SettingsError, UnknownNameError
from subcircuit.evaluate import discover
from subcircuit.graph import Circuit, Graph, Greedy, Scope, Threshold, TopN
from subcircuit.search import METHODS, Acdc, Eap, Exact, Hybrid, method_named, method_of
from subcircuit.search.eap import EapIgInputs
from subcircuit.search.hybrid import nominate
from tests.problems import random_problem, random_task
from tests.tiny_models import tiny


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_finds_a_recorded_circuit(name, tmp_path):
    model = replace(tiny("llama_gqa"), origin="Tiny-Instruct, Q4_1 weights")
    task, method = random_task(model, 3, [6, 5]), METHODS[name]
    steps, settings = [], method()
    if getattr(settings, "steps", 0) > 20:
        settings = replace(settings, steps=20)
    result = discover(model, task, settings, metric="logit_difference", on_step=steps.append)
    circuit, record = result.circuit, result.circuit.record
    assert record is not None
    assert (record.method.name, record.results["edges_kept"]) == (name, circuit.n_edges)
    assert record.model.origin == "Tiny-Instruct, Q4_1 weights"
    # nobody knows how many rounds a refinement takes
    assert name in ("random", "refine") or steps[-1].done == steps[-1].total
    assert method_of(name) == method_of(method) == method() and method_named(name) == method
    assert result.ranked == method.ranks
    if method.ranks:
        assert steps[-1].circuit is None if steps else name == "random"
        assert record.method.parameters["select"] == "top-n"
        assert record.method.parameters["by"] == "absolute"
        assert circuit.n_edges <= max(1, circuit.graph.n_edges // 100)
        assert circuit == circuit.prune()
    circuit.save(tmp_path / "run")
    assert Circuit.load(tmp_path / "run") == circuit


@pytest.mark.slow
@pytest.mark.parametrize("selection", [TopN(60, "signed"), Greedy(60, "absolute"), Threshold(1e-4, "absolute")])
def test_what_is_said_of_a_selected_circuit_is_what_it_does(selection):
    model = tiny("gemma2", dtype=torch.float64)
    task = random_task(model, 5, [6, 8, 7])
    result = discover(model, task, Eap(), metric="logit_difference", selection=selection)
    circuit = result.circuit
    ablated = ABLATIONS["resample"].values(model, circuit.graph, task.corrupted)
    values = []
    for kept in (circuit.kept, circuit.graph.edges, torch.zeros_like(circuit.kept)):
        logits = task.answers.rows(run_circuit(model, circuit.graph, kept, task.clean, ablated))
        right, wrong = ((logits.gather(1, ids) * mask).sum(1) / mask.sum(1) for ids, mask in options(task))
        values.append(float((right - wrong).mean()))
    assert [result.metric_circuit, result.metric_model, result.metric_corrupted] == pytest.approx(values, abs=1e-9)
    assert result.trials is None
    assert result.borderline is None


def options(task):
    answers = task.answers
    return (answers.correct, answers.correct_mask), (answers.wrong, answers.wrong_mask)


def test_refusals():
    model = tiny("llama")
    task = random_task(model, 1, [5, 6])
    edges = Graph.of(model.config).n_edges
    with pytest.raises(SettingsError, match=f"the number of edges is {edges + 1:,}, and the graph has only {edges:,}"):
        discover(model, task, Eap(), selection=TopN(edges + 1, "signed"))
    with pytest.raises(SettingsError, match="takes no selection"):
        discover(model, task, Acdc(), selection=TopN(5, "signed"))
    with pytest.raises(UnknownNameError, match="eap-ig-inputs"):
        method_named("eap-ig")
    for name, value in (("coverage", 0.0), ("most", 0), ("sample", -1), ("batch_size", 0)):
        with pytest.raises(SettingsError, match=name):
            replace(Hybrid(), **{name: value})


def test_graphs_too_large_are_refused_before_anything_is_run(monkeypatch):
    model = tiny("gpt2")
    task = random_task(model, 3, [5])
    monkeypatch.setattr("subcircuit.graph.graph.MOST_CELLS", Graph.of(model.config).n_edges)
    monkeypatch.setattr(Eap, "search", lambda *_: pytest.fail("the model is run"))
    with pytest.raises(GraphError, match="Resolve fewer MLPs"):
        discover(model, task, Eap(), metric="logit_difference", scope=Scope("neuron"))


@pytest.mark.slow
def test_hybrid_measures_what_was_nominated_and_tells_what_was_not():
    model = tiny("llama_gqa", dtype=torch.float64)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 2, [6, 7], 1, "logit_difference", "resample")
    effects = Exact().search(problem).scores
    attributions = EapIgInputs(5).search(problem).scores
    scores = Hybrid(coverage=0.9, most=40, sample=graph.n_edges).search(problem)
    nominated = nominate(graph, attributions, 0.9, 40)
    torch.testing.assert_close(scores.scores[nominated], effects[nominated], atol=1e-6, rtol=1e-5)
    rest = graph.edges & ~nominated
    assert bool((scores.scores[rest] == 0).all())
    # the sample is all of the rest: what it says is not an estimate
    assert scores.notes["nominated"] == 40
    assert scores.notes["sample_largest"] == pytest.approx(float(effects[rest].abs().max()), rel=1e-5)
    share = float(effects[rest].abs().sum() / effects[graph.edges].abs().sum())
    assert scores.notes["sample_share"] == pytest.approx(share, rel=1e-4)


def test_nominated_edges_are_the_fewest_that_cover():
    graph = Graph.of(tiny("attention_only").config)
    sizes = torch.rand(graph.edges.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    chosen = nominate(graph, sizes, 0.5, graph.n_edges)
    held, total = sizes.abs()[chosen].sum(), sizes.abs()[graph.edges].sum()
    assert held >= 0.5 * total > held - sizes.abs()[chosen].min()
    assert sizes.abs()[chosen].min() >= sizes.abs()[graph.edges & ~chosen].max()
    assert int(nominate(graph, sizes, 1.0, graph.n_edges).sum()) == graph.n_edges
    assert int(nominate(graph, sizes * 0, 0.5, graph.n_edges).sum()) == 1
