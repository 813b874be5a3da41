"""Faithfulness is its ratio, 1 for the model and 0 for no edges, and is refused where the ratio is of two errors."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from subcircuit.errors import SettingsError
from subcircuit.evaluate import (
    Readings,
    bootstrap,
    completeness,
    edges_from,
    evaluate_circuit,
    faithfulness,
    faithfulness_interval,
    knock_out,
    measure,
    minimality,
    random_subsets,
)
from subcircuit.evaluate.bootstrap import mean
from subcircuit.graph import Circuit, Graph, Scope
from subcircuit.tasks import metric
from tests.oracles import NodeByNode
from tests.problems import random_kept, random_problem
from tests.tiny_models import tiny


def readings(model, empty, *circuits, rounding=1e-9):
    def row(values):
        return torch.tensor(values, dtype=torch.float64)

    return Readings(metric("logit_difference"), row(model), row(empty), torch.stack([row(c) for c in circuits]), rounding)


def kl_problem(model, graph, seed=0, lengths=(6, 5, 7)):
    return random_problem(model, graph, seed, list(lengths), 1, "kl_divergence", "resample")


def test_faithfulness_is_the_ratio_of_means_and_not_the_mean_of_ratios():
    found = faithfulness(readings([-4.0, -2.0], [0.0, -1.0], [-3.0, -1.0], [-4.0, -2.0], [0.0, -1.0], [-7.0, 1.0]))
    # loss-like values: means are -3 for the model, -0.5 for no edges
    assert found.tolist() == [1.5 / 2.5, 1.0, 0.0, 1.0]


def test_its_sign_does_not_depend_on_the_metric_s_direction():
    one = faithfulness(readings([-4.0, -2.0], [0.0, -1.0], [-3.0, -1.0]))
    assert torch.equal(one, faithfulness(readings([4.0, 2.0], [0.0, 1.0], [3.0, 1.0])))


@pytest.mark.parametrize(
    ("model", "empty", "rounding"),
    [
        ([1.0, 2.0], [1.0, 2.0], 1e-9),  # the same
        ([1.0, 2.0], [1.001, 2.001], 0.01),  # within float error
        ([1.0], [1.001], 0.01),  # a single example has no interval, but rounding
        ([1.0, -1.0, 1.0, -1.1], [0.0, 0.0, 0.0, 0.0], 1e-9),  # as often up as down
    ],
)
def test_a_gap_within_noise_is_refused(model, empty, rounding):
    with pytest.raises(SettingsError, match="faithfulness is undefined"):
        faithfulness(readings(model, empty, model, rounding=rounding))


def test_examples_that_agree_in_direction_are_enough():
    # the standard error of these differences is as large as their mean; every resample is positive all the same
    assert faithfulness(readings([0.1, 0.1, 3.0], [0.0, 0.0, 0.0], [0.1, 0.1, 3.0])).tolist() == [1.0]


@pytest.mark.slow
@settings(max_examples=5)
@given(seed=st.integers(0, 2**20), share=st.sampled_from([0.1, 0.5, 0.9]))
def test_the_model_is_1_no_edges_are_0_and_the_rest_is_in_proportion(seed, share):
    model = tiny("llama", seed % 3, dtype=torch.float64)
    graph = Graph.of(model.config, Scope("head"))
    problem = kl_problem(model, graph, seed)
    circuit = Circuit(graph, random_kept(graph.edges, seed, share))
    values = measure(problem, [Circuit.full(graph), Circuit.empty(graph), circuit], 2)
    full, empty, part = faithfulness(values).tolist()
    assert full == pytest.approx(1)
    assert empty == 0
    # KL of the model to itself is 0
    assert part == pytest.approx(1 - float(values.circuits[2].mean() / values.empty.mean()), abs=1e-9)
    whole = evaluate_circuit(problem, circuit)
    assert whole.faithfulness == pytest.approx(part)
    assert completeness(problem, Circuit.full(graph).difference(circuit)) == pytest.approx(part)


def test_an_evaluation_gives_metrics_in_their_own_sign():
    model = tiny("gpt2", dtype=torch.float64)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 3, [5, 6, 7, 8], 1, "logit_difference", "resample")
    task = problem.task
    means = evaluate_circuit(problem, Circuit.full(graph)).means
    logits = task.answers.rows(model(task.clean)).double()
    bound = metric("logit_difference").bind(task.answers)
    from subcircuit.engine.readout import readout_of

    difference = -float(task.answers.mean(bound(readout_of(logits, bound.needs))))
    assert means["metric_circuit"] == pytest.approx(difference)
    assert means["metric_model"] == means["metric_circuit"] != means["metric_empty"]
    assert means["kl"] == pytest.approx(0, abs=1e-9)
    assert means["match"] == 1
    right = [
        min(z[c[m]]) > max(z[w[n]])
        for z, c, m, w, n in zip(
            logits, task.answers.correct, task.answers.correct_mask, task.answers.wrong, task.answers.wrong_mask, strict=True
        )
    ]
    assert means["accuracy"] == means["accuracy_model"] == np.mean(right)
    assert means["accuracy_kept"] == (1 if any(right) else None)


def test_without_wrong_answers_there_is_no_accuracy():
    model = tiny("gpt2")
    graph = Graph.of(model.config)
    problem = kl_problem(model, graph)
    answers = problem.task.answers
    bare = replace(problem.task, answers=replace(answers, wrong_mask=torch.zeros_like(answers.wrong_mask)))
    evaluation = evaluate_circuit(replace(problem, task=bare), Circuit.full(graph))
    assert evaluation.accuracy is None
    assert evaluation.means["accuracy"] is None
    assert evaluation.means["match"] == 1


def test_the_interval_of_faithfulness_resamples_all_three_together():
    values = readings([-4.0, -2.0, -5.0, -4.0], [0.0, -1.0, 0.5, 0.1], [-3.0, -1.0, -2.0, -3.5])
    generator = np.random.default_rng(1)
    samples = []
    for _ in range(4000):
        drawn = generator.integers(0, 4, 4)
        c, m, e = (float(x[drawn].mean()) for x in (values.circuits[0], values.model, values.empty))
        samples.append((c - e) / (m - e))
    interval = faithfulness_interval(values, 0)
    assert interval is not None
    leaving_out = [
        (values.circuits[0][rest].mean() - values.empty[rest].mean()) / (values.model[rest].mean() - values.empty[rest].mean())
        for rest in ([i for i in range(4) if i != one] for one in range(4))
    ]
    observed = float((values.circuits[0].mean() - values.empty.mean()) / (values.model.mean() - values.empty.mean()))
    shares = bca_shares(np.array(samples), observed, np.array(leaving_out), 0.95)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(samples, shares)), abs=0.05)
    assert interval == faithfulness_interval(values, 0)


def bca_shares(samples, observed, leaving_out, level):
    """The shares of samples below the ends of a BCa interval, by its definition (Efron 1987)."""
    below = ((samples < observed).mean() + (samples <= observed).mean()) / 2
    bias, distance = stats.norm.ppf(below), leaving_out.mean() - leaving_out
    acceleration = (distance**3).sum() / (6 * (distance**2).sum() ** 1.5)
    ends = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    return stats.norm.cdf(bias + ends / (1 - acceleration * ends))


@settings(max_examples=25)
@given(st.lists(st.integers(-40, 40), min_size=2, max_size=5).filter(lambda v: len(set(v)) > 1), st.sampled_from([0.5, 0.9]))
def test_bootstrap_is_the_bca_interval(eighths, level):
    # sums of eighths are exact: samples that tie with what is observed tie in floating point
    values = np.array(eighths) / 8
    interval = bootstrap(mean, [torch.tensor(values)], level=level, resamples=4000)
    every_sample = np.array([np.mean(sample) for sample in product(values, repeat=len(values))])
    leaving_out = np.array([np.delete(values, one).mean() for one in range(len(values))])
    assert interval is not None
    for end, share in zip(
        (interval.low, interval.high), bca_shares(every_sample, values.mean(), leaving_out, level), strict=True
    ):
        least, most = np.quantile(every_sample, [max(share - 0.05, 0), min(share + 0.05, 1)], method="inverted_cdf")
        assert least - 1e-9 <= end <= most + 1e-9
    assert interval.level == level


def test_one_example_has_no_interval_and_equal_ones_a_point():
    assert bootstrap(mean, [torch.tensor([1.0])]) is None
    same = bootstrap(mean, [torch.tensor([2.0, 2.0, 2.0])])
    assert same is not None
    assert (same.low, same.high) == (2.0, 2.0)
    with pytest.raises(SettingsError, match="level is 95"):
        bootstrap(mean, [torch.tensor([2.0, 2.0])], level=95.0)


def test_a_knocked_out_node_is_cut_in_the_circuit_and_in_the_model():
    model = tiny("gpt2", dtype=torch.float64)
    graph = Graph.of(model.config, Scope("head"))
    problem = kl_problem(model, graph, 2)
    circuit = Circuit(graph, random_kept(graph.edges, 2, 0.6))
    node = edges_from(graph, ["a1.h2"])
    assert {str(edge.writer) for edge in node.edges} == {"a1.h2"}
    assert node.n_edges == int(graph.edges[graph.writers.index(node.edges[0].writer)].sum())
    (found,) = knock_out(problem, circuit, [node])
    expected = measure(problem, [circuit.difference(node), Circuit.full(graph).difference(node)])
    assert torch.equal(found.circuit, expected.circuits[0])
    assert torch.equal(found.model, expected.circuits[1])
    assert found.incompleteness == pytest.approx(abs(float(found.circuit.mean() - found.model.mean())))
    (nothing,) = knock_out(problem, Circuit.full(graph), [node])
    assert nothing.incompleteness == 0


def test_random_subsets_are_of_the_circuit_and_seeded():
    graph = Graph.of(tiny("gpt2").config)
    circuit = Circuit(graph, random_kept(graph.edges, 2, 0.6))
    subsets = random_subsets(circuit, 5, seed=3)
    assert all(not (subset.kept & ~circuit.kept).any() for subset in subsets)
    assert all(0.4 < subset.n_edges / circuit.n_edges < 0.6 for subset in subsets)
    assert subsets == random_subsets(circuit, 5, seed=3) != random_subsets(circuit, 5, seed=4)


def test_minimality_is_the_change_by_cutting_each_kept_edge():
    model = tiny("attention_only", dtype=torch.float64)
    graph = Graph.of(model.config, Scope("block"))
    problem = kl_problem(model, graph, 5, [5])
    circuit = Circuit.full(graph).difference(Circuit.of_edges(graph, ["embed->a1"]))
    effects = minimality(problem, circuit)
    ids = problem.task.clean.ids[0].tolist()
    everything = torch.zeros(len(graph.writers), len(ids), model.config.d_model, dtype=torch.float64)
    corrupted, _ = NodeByNode(model, graph, graph.edges, everything).run(problem.task.corrupted.ids[0].tolist())
    ablated = torch.stack([corrupted[w] for w in graph.writers])
    at = int(problem.task.answers.pos[0])
    p = NodeByNode(model, graph, graph.edges, ablated).run(ids)[1][at].log_softmax(-1)

    def kl(kept):
        q = NodeByNode(model, graph, kept, ablated).run(ids)[1][at].log_softmax(-1)
        return float((p.exp() * (p - q)).sum())

    for w, r in graph.edges.nonzero().tolist():
        if not circuit.kept[w, r]:
            assert effects[w, r].isnan()
            continue
        kept = circuit.kept.clone()
        kept[w, r] = False
        assert float(effects[w, r]) == pytest.approx(kl(kept) - kl(circuit.kept), abs=1e-9)
    assert int(effects.isfinite().sum()) == circuit.n_edges
