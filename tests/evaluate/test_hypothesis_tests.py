"""The three tests are their definitions, hold their level under H0, and see what they should see."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from subcircuit.errors import SettingsError
from subcircuit.evaluate import equivalence_test, independence_test, measure, minimality_test
from subcircuit.evaluate.hypothesis_tests import equivalence, independence
from subcircuit.graph import Circuit, Graph, Scope
from tests.problems import random_kept, random_problem
from tests.tiny_models import tiny


@given(st.lists(st.sampled_from([-2.0, -1e-12, 0.0, 1.0]), max_size=40), st.sampled_from([0.0, 0.1, 0.3]))
def test_equivalence_adds_up_the_outcomes_at_least_as_uneven(differences, epsilon):
    found = equivalence(torch.tensor(differences, dtype=torch.float64), epsilon, rounding=1e-9)
    k, n = differences.count(1.0), differences.count(1.0) + differences.count(-2.0)
    p = sum(
        math.comb(n, i) * (0.5 + epsilon) ** i * (0.5 - epsilon) ** (n - i)
        for i in range(n + 1)
        if abs(i - n / 2) >= abs(k - n / 2)
    )
    assert (found.better, found.examples) == (k, n)
    assert found.p_value == pytest.approx(p)
    if epsilon == 0 and n:
        # the sign test
        assert found.p_value == pytest.approx(stats.binomtest(k, n).pvalue)


@pytest.mark.parametrize("p", [0.4, 0.5, 0.6])
def test_equivalence_rejects_at_most_its_level_within_epsilon(p):
    n = 60
    rejected = sum(
        stats.binom.pmf(k, n, p)
        for k in range(n + 1)
        if equivalence(torch.tensor([1.0] * k + [-1.0] * (n - k)), 0.1).p_value <= 0.05
    )
    assert rejected <= 0.05 + 1e-12


def hsic(a, b):
    """From the definition with centring matrices."""
    n = len(a)

    def kernel(x):
        d = (x[:, None] - x).abs()
        width = torch.tensor([float(abs(x[i] - x[j])) for i, j in itertools.combinations(range(n), 2)]).double().median()
        return torch.exp(-(d**2) / (2 * width**2))

    h = torch.eye(n, dtype=torch.float64) - 1 / n
    return float(torch.trace(kernel(a) @ h @ kernel(b) @ h) / (n - 1) ** 2)


def test_independence_is_the_permutation_test_of_the_criterion():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(6, generator=generator, dtype=torch.float64)
    b = a.square() + 0.5 * torch.randn(6, generator=generator, dtype=torch.float64)
    found = independence(a, b, permutations=4000)
    assert found.statistic == pytest.approx(hsic(a, b))
    every = [hsic(a, b[list(order)]) for order in itertools.permutations(range(6))]
    exact = sum(value >= found.statistic - 1e-12 for value in every) / len(every)
    assert found.p_value == pytest.approx(exact, abs=0.03)
    assert found == independence(a, b, permutations=4000)


def test_independence_sees_dependence_without_correlation_and_nothing_where_there_is_nothing():
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(60, generator=generator, dtype=torch.float64)
    noise = torch.randn(60, generator=generator, dtype=torch.float64)
    assert independence(a, a.square() + 0.1 * noise, 200).p_value < 0.02
    constant = torch.ones(60, dtype=torch.float64)
    assert independence(a, constant, 50).p_value == 1.0
    p_values = [
        independence(torch.randn(20, generator=generator), torch.randn(20, generator=generator), 99).p_value for _ in range(100)
    ]
    assert sum(p <= 0.05 for p in p_values) <= 12
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_both_measure_the_circuit_and_what_is_left_of_the_model():
    model = tiny("gpt2", dtype=torch.float64)
    graph = Graph.of(model.config, Scope("head"))
    problem = random_problem(model, graph, 3, [5, 6, 4, 7, 5, 6], 1, "logit_difference", "resample")
    circuit = Circuit(graph, random_kept(graph.edges, 1, 0.5))
    rest = Circuit.full(graph).difference(circuit)
    readings = measure(problem, [circuit, rest])
    better = int((readings.circuits[0] < readings.model).sum())
    assert equivalence_test(problem, circuit).better == better
    assert independence_test(problem, circuit, permutations=20) == independence(readings.circuits[1], readings.model, 20)
    whole = equivalence_test(problem, Circuit.full(graph))
    assert (whole.examples, whole.p_value) == (0, 1.0)


@pytest.mark.slow
@settings(max_examples=3)
@given(seed=st.integers(0, 2**20))
def test_minimality_compares_each_edge_with_random_ones(seed):
    model = tiny("attention_only", dtype=torch.float64)
    graph = Graph.of(model.config, Scope("head"))
    problem = random_problem(model, graph, seed, [5, 6, 4], 1, "kl_divergence", "resample")
    circuit = Circuit(graph, random_kept(graph.edges, seed, 0.2))
    found = minimality_test(problem, circuit, random_edges=12, quantile=0.8, seed=seed)
    assert found.edges == circuit.edges
    assert len(found.random_effects) == 12
    for edge, effect, p in zip(found.edges, found.effects, found.p_values, strict=True):
        smaller = circuit.difference(Circuit.of_edges(graph, [edge]))
        whole, part = measure(problem, [circuit, smaller]).circuits
        assert effect == pytest.approx(float((whole - part).square().mean()), abs=1e-12)
        below = sum(other < effect for other in found.random_effects)
        assert p == pytest.approx(sum(math.comb(12, i) * 0.8**i * 0.2 ** (12 - i) for i in range(below + 1)))
        assert (edge in found.superfluous) == (p <= 0.05 / circuit.n_edges)
    # an edge that leads nowhere has no effect, and random ones on paths do
    dead = [edge for edge in circuit.edges if edge not in set(circuit.prune().edges)]
    assert set(dead) <= set(found.superfluous) or not all(found.random_effects)


@pytest.mark.slow
def test_what_cannot_be_tested_is_refused():
    model = tiny("gpt2")
    graph = Graph.of(model.config, Scope("block"))
    problem = random_problem(model, graph, 0, [5, 6, 4], 1, "logit_difference", "resample")
    compares = random_problem(model, graph, 0, [5, 6, 4], 1, "kl_divergence", "resample")
    circuit = Circuit.full(graph)
    for test in (equivalence_test, independence_test):
        with pytest.raises(SettingsError, match="compares the circuit with the model"):
            test(compares, circuit)
    with pytest.raises(SettingsError, match="epsilon"):
        equivalence_test(problem, circuit, epsilon=0.5)
    with pytest.raises(SettingsError, match="at least 4 examples"):
        independence_test(problem, circuit)
    with pytest.raises(SettingsError, match="quantile"):
        minimality_test(problem, circuit, quantile=1.0)
    with pytest.raises(SettingsError, match="no edge to test"):
        minimality_test(problem, Circuit.empty(graph))
    with pytest.raises(SettingsError, match="no path was found"):
        minimality_test(problem, circuit)
