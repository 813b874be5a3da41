"""ACDC on the engine decides as the sequential search does, whatever the batching and the precision."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.engine import ABLATIONS
from subcircuit.errors import NumericalError, SettingsError
from subcircuit.evaluate import discover
from subcircuit.graph import Graph
from subcircuit.search import Acdc, Progress
from tests.engine.test_forward import scopes_of
from tests.oracles import SequentialAcdc
from tests.problems import random_problem, random_task
from tests.tiny_models import FAMILIES, tiny

METRICS = [
    "kl_divergence",
    "logit_difference",
    "probability_difference",
    "negative_log_likelihood",
    "js_divergence",
    "greater_than",
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=2)
@given(
    data=st.data(),
    seed=st.integers(0, 2**20),
    metric=st.sampled_from(METRICS),
    how=st.sampled_from([*(("noising", name) for name in sorted(ABLATIONS)), ("denoising", "resample"), ("both", "resample")]),
    threshold=st.sampled_from([0.0, 1e-4, 0.003, 0.05, 0.5]),
    speculation=st.sampled_from([1, 4, 32, None]),
    whole_input=st.booleans(),
    coarse_to_fine=st.booleans(),
    absolute=st.booleans(),
    head_order=st.sampled_from(["descending", "ascending"]),
    lengths=st.lists(st.integers(4, 9), min_size=1, max_size=4),
    answers_each=st.integers(1, 2),
)
@torch.no_grad()
def test_decides_as_the_sequential_search_does(family, data, seed, metric, how, lengths, answers_each, **options):
    precise = tiny(family, seed % 3, dtype=torch.float64)
    graph = Graph.of(precise.config, data.draw(st.sampled_from(scopes_of(family))))
    direction, ablation = how
    problem = random_problem(precise, graph, seed, lengths, answers_each, metric, ablation)
    config = Acdc(batch_size=data.draw(st.sampled_from([None, 1, 3])), direction=direction, **options)
    kept, effects = found_slowly(problem, config)
    for dtype, tolerance in ((torch.float64, 1e-7), (torch.float32, 2e-4)):
        fast = config.search(replace(problem, model=precise.to(dtype=dtype)))
        assert torch.equal(fast.circuit.kept, kept)
        tried, scores = effects.isfinite(), fast.circuit.scores
        assert scores is not None
        assert torch.equal(scores.isfinite(), tried)
        torch.testing.assert_close(scores[tried].double(), effects[tried], atol=tolerance, rtol=1e-3)


def found_slowly(problem, config) -> tuple[torch.Tensor, torch.Tensor]:
    """What is kept from either end, and the larger effect of each edge that was tried."""
    graph = problem.graph
    ends = {"noising": [False], "denoising": [True], "both": [False, True]}[config.direction]
    kept, effects = torch.zeros_like(graph.edges), torch.full(graph.edges.shape, torch.nan, dtype=torch.float64)
    for restoring in ends:
        slow = SequentialAcdc(problem, config, restoring)
        kept |= slow.run().kept
        for cell in map(tuple, slow.effects.isfinite().nonzero().tolist()):
            known, found = float(effects[cell]), float(slow.effects[cell])
            effects[cell] = found if not abs(known) >= abs(found) else known
    return kept, effects


@pytest.mark.slow
def test_thresholds_at_an_effect_are_decided_in_float64():
    precise = tiny("llama", dtype=torch.float64)
    graph = Graph.of(precise.config)
    problem = random_problem(precise, graph, 3, [6, 7], 1, "kl_divergence", "resample")
    # the first edge tried has the same effect whatever the threshold
    first = len(graph.writers) - 1, len(graph.readers) - 1
    effect = float(SequentialAcdc(problem, Acdc(1e9)).run_first())
    for factor, kept in ((1 + 1e-9, False), (1 - 1e-9, True)):
        config = Acdc(effect * factor)
        fast = config.search(replace(problem, model=precise.to(dtype=torch.float32)))
        assert fast.borderline
        assert bool(fast.circuit.kept[first]) == kept
        assert fast.circuit.names == SequentialAcdc(problem, config).run().names


def test_full_and_empty_ends_of_the_threshold():
    model = tiny("gpt2")
    nothing = discover(model, random_task(model, 5, [6, 6]), Acdc(1e9), metric="kl_divergence")
    assert nothing.circuit.n_edges == 0
    assert nothing.metric_circuit == pytest.approx(nothing.metric_corrupted, abs=1e-6)
    assert nothing.metric_model == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_half_precision_runs_and_says_that_nothing_was_checked():
    model = tiny("llama_gqa", dtype=torch.bfloat16)
    problem = random_problem(model, Graph.of(model.config), 5, [6, 6], 1, "logit_difference", "resample")
    result = Acdc(0.1).search(problem)
    assert result.borderline is None
    assert 0 < result.circuit.n_edges < result.circuit.graph.n_edges


@pytest.mark.slow
def test_progress_adds_up():
    model = tiny("qwen3")
    graph = Graph.of(model.config)
    steps = []
    result = Acdc(0.02).search(random_problem(model, graph, 1, [6, 5], 1, "kl_divergence", "resample"), steps.append)
    trials = [step.numbers["trials"] for step in steps]
    assert trials == sorted(trials)
    assert steps[-1].numbers == {"edges kept": result.circuit.n_edges, "trials": result.trials}
    assert steps[-1].done == steps[-1].total <= result.seconds


@pytest.mark.parametrize("direction", ["noising", "both"])
def test_the_circuit_so_far_grows_into_the_result(direction):
    model = tiny("gpt2")
    graph, so_far = Graph.of(model.config), []
    problem = random_problem(model, graph, 1, [6, 5], 1, "kl_divergence", "resample")

    def note(step: Progress) -> None:
        assert step.circuit is not None
        so_far.append((step, step.circuit()))

    result = Acdc(0.02, direction=direction).search(problem, note)
    assert all(circuit.n_edges <= step.numbers["edges kept"] for step, circuit in so_far if step.phase == so_far[0][0].phase)
    assert all(bool((a.kept <= b.kept).all()) for (_, a), (_, b) in pairwise(so_far))
    assert so_far[-1][1].kept.equal(result.circuit.kept)


def test_nan_is_never_ranked():
    model = tiny("llama")
    model.weights.layers[1].attention.W_V[0, 0, 0] = float("nan")
    with pytest.raises(NumericalError, match=r"pair 1, 2 .*float32"):
        Acdc(0.02).search(random_problem(model, Graph.of(model.config), 1, [6, 5], 1, "kl_divergence", "resample"))


@pytest.mark.parametrize("options", [{"threshold": -1.0}, {"threshold": float("nan")}, {"threshold": 0.1, "speculation": 0}])
def test_settings_are_checked(options):
    with pytest.raises(SettingsError, match="must be"):
        Acdc(**options)
