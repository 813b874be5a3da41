"""Gradient methods equal autograd through split inputs, for every family, scope, ablation and metric."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import NoGradientError, NumericalError, SettingsError
from subcircuit.graph import Graph, Scope
from subcircuit.model import LayerNorm, NormWeights, RMSNorm
from subcircuit.model.components import normalize
from subcircuit.search.eap import CleanCorrupted, Eap, EapIgActivations, EapIgInputs, stages
from subcircuit.units.gradients import norm_pull_back
from tests.engine.test_forward import scopes_of
from tests.problems import random_problem
from tests.search.autograd import Autograd, assert_scores, assert_scores_or_refused
from tests.search.test_acdc import METRICS
from tests.tiny_models import FAMILIES, tiny


@st.composite
def problems(draw: st.DrawFn, family: str, ablations: tuple[str, ...] = ("resample", "zero", "mean", "mean-by-position")):
    """A problem of a float64 model at any scope; what is tried first has gradients and all kinds of readers."""
    seed = draw(st.integers(0, 2**20))
    model = tiny(family, seed % 2, dtype=torch.float64)
    graph = Graph.of(model.config, draw(st.sampled_from(scopes_of(family)[::-1])))
    lengths = draw(st.lists(st.integers(3, 6), min_size=1, max_size=3))
    metric, ablation = draw(st.sampled_from(METRICS[::-1])), draw(st.sampled_from(ablations))
    return random_problem(model, graph, seed, lengths, draw(st.integers(1, 2)), metric, ablation)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=2)
@given(data=st.data(), batch_size=st.sampled_from([1, None, 2]))
def test_eap_is_the_slope_of_the_loss_in_every_edge(family, data, batch_size):
    problem = data.draw(problems(family))
    expected = Autograd(problem).slope(problem.graph.edges)
    assert_scores_or_refused(lambda: Eap(batch_size).search(problem), expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=2)
@given(data=st.data(), steps=st.sampled_from([2, 1, 3]))
def test_integrated_gradients_average_autograd_over_the_path(family, data, steps):
    problem = data.draw(problems(family))
    expected = integrated_slowly(Autograd(problem), steps)
    config = EapIgInputs(steps, batch_size=2)
    assert_scores_or_refused(lambda: config.search(problem), expected)


def integrated_slowly(slow, steps):
    """Scores along the path of inputs."""
    clean, ablated = slow.embeddings()
    points = [ablated + k / steps * (clean - ablated) for k in range(1, steps + 1)]
    return torch.stack([slow.scores_at(point) for point in points]).mean(0)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=2)
@given(data=st.data())
def test_clean_corrupted_averages_autograd_over_both_ends(family, data):
    problem = data.draw(problems(family, ablations=("resample",)))
    slow = Autograd(problem)
    expected = torch.stack([slow.scores_at(end) for end in slow.embeddings()]).mean(0)
    assert_scores_or_refused(lambda: CleanCorrupted(batch_size=2).search(problem), expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama_gqa", "gemma3", "pythia", "attention_only_bare"])
def test_scores_out_of_the_embedding_add_up_to_the_change_along_the_path(family):
    model = tiny(family, dtype=torch.float64)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 11, [5, 6], 1, "logit_difference", "resample")
    slow, steps = Autograd(problem), 16
    change = float(slow.of_logits(model(problem.task.corrupted)) - slow.of_logits(model(problem.task.clean)))
    scores = float(EapIgInputs(steps).search(problem).scores[0].nansum())
    # the path begins behind its first point: half a step of each end turns the sum into the trapezoid rule
    clean, ablated = (slow.scores_at(end)[0].masked_fill(~graph.edges[0], 0).sum() for end in slow.embeddings())
    assert abs(change) > 0.01
    assert scores + float(ablated - clean) / (2 * steps) == pytest.approx(change, rel=0.05)


def test_at_the_minimum_of_a_divergence_only_other_runs_than_the_clean_one_have_anything_to_say():
    model = tiny("llama", dtype=torch.float64)
    problem = random_problem(model, Graph.of(model.config), 2, [6, 5], 1, "kl_divergence", "resample")
    with pytest.raises(NoGradientError):
        Eap().search(problem)
    for scores in (
        EapIgInputs().search(problem),
        CleanCorrupted().search(problem),
    ):
        assert float(scores.scores.nan_to_num().abs().max()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
@pytest.mark.parametrize("family", ["gpt2", "qwen3", "gemma2", "pythia"])
def test_other_precisions_are_near_and_batches_change_nothing(family, dtype, tolerance):
    precise = tiny(family, dtype=torch.float64)
    graph = Graph.of(precise.config)
    problem = random_problem(precise, graph, 7, [6, 5, 7], 1, "logit_difference", "mean")
    expected, rounded = Eap().search(problem).scores[graph.edges], replace(problem, model=precise.to(dtype=dtype))
    for batch_size in (None, 2):
        values = Eap(batch_size).search(rounded).scores[graph.edges]
        assert float((values - expected).abs().max()) < tolerance * float(expected.abs().max())


@given(st.sampled_from([LayerNorm(1e-5), RMSNorm(1e-3)]), st.booleans(), st.integers(0, 1000))
def test_norms_are_pulled_back_as_autograd_does(norm, has_gain, seed):
    generator = torch.Generator().manual_seed(seed)
    x, gradient = (torch.randn(n, 3, 8, generator=generator, dtype=torch.float64) for n in (1, 4))
    gain = torch.randn(8, generator=generator, dtype=torch.float64) if has_gain else None
    leaf = x.expand(4, -1, -1).clone().requires_grad_()
    (expected,) = torch.autograd.grad(normalize(leaf, norm, NormWeights(gain)), leaf, gradient)
    torch.testing.assert_close(norm_pull_back(norm, NormWeights(gain), x, gradient), expected, atol=1e-10, rtol=1e-8)


def test_progress_adds_up():
    model = tiny("qwen2")
    problem = random_problem(model, Graph.of(model.config), 1, [6, 5, 4], 1, "logit_difference", "resample")
    rounds = []
    EapIgInputs(steps=3, batch_size=2).search(problem, rounds.append)
    # the interpolated runs of a batch go together, its clean run comes last
    assert [(r.done, r.total) for r in rounds] == [(done, 9) for done in (4, 6, 8, 9)]


def test_what_cannot_be_differentiated_is_refused():
    model = tiny("gpt2")
    graph = Graph.of(model.config)
    counted = random_problem(model, graph, 1, [6, 5], 1, "accuracy", "resample")
    for search in (
        lambda: Eap().search(counted),
        lambda: EapIgInputs().search(counted),
        lambda: CleanCorrupted().search(counted),
    ):
        with pytest.raises(SettingsError, match="accuracy is a count"):
            search()
    with pytest.raises(SettingsError, match="resample"):
        CleanCorrupted().search(random_problem(model, graph, 1, [6], 1, "logit_difference", "zero"))
    for wrong in (lambda: Eap(0), lambda: EapIgInputs(0), lambda: CleanCorrupted(-1)):
        with pytest.raises(SettingsError, match="at least 1"):
            wrong()


def test_nan_is_never_ranked():
    model = tiny("llama")
    problem = random_problem(model, Graph.of(model.config), 1, [6, 5], 1, "logit_difference", "resample")
    model.weights.layers[1].attention.W_V[0, 0, 0] = float("nan")
    with pytest.raises(NumericalError, match=r"the score of embed->a0\.h0<q> is nan"):
        Eap().search(problem)


def written_together(graph):
    """Rows of the embedding's writers, and of each layer's attention and MLP."""
    groups = {}
    for index, writer in enumerate(graph.writers):
        name = str(writer)
        groups.setdefault("embed" if "embed" in name else name.partition(".")[0], []).append(index)
    return groups


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=2)
@given(data=st.data(), steps=st.sampled_from([2, 1, 3]))
def test_scores_average_autograd_along_the_path_of_the_writers_stage(family, data, steps):
    problem = data.draw(problems(family))
    config = EapIgActivations(steps, batch_size=data.draw(st.sampled_from([None, 1, 2])))
    expected = staged_slowly(Autograd(problem), steps)
    assert_scores_or_refused(lambda: config.search(problem), expected)


def staged_slowly(slow, steps):
    """Scores along the paths of the writers of one stage after the other."""
    graph, expected = slow.graph, torch.zeros(slow.graph.edges.shape, dtype=torch.float64)
    for rows in written_together(graph).values():
        for step in range(1, steps + 1):
            # what a circuit's partly cut edges carry is the interpolation
            mask = graph.edges.double()
            mask[rows] *= step / steps
            expected[rows] += slow.slope(mask)[rows] / steps
    return expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "ablation"),
    [("gpt2", "mean"), ("llama_gqa", "mean"), ("gemma3", "resample"), ("pythia", "resample"), ("attention_only_bare", "zero")],
)
def test_scores_out_of_a_stage_add_up_to_the_effect_of_ablating_it(family, ablation):
    model = tiny(family, dtype=torch.float64)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 11, [5, 4], 1, "logit_difference", ablation)
    slow, steps = Autograd(problem), 12
    scores = EapIgActivations(steps).search(problem).scores.double()
    effects, sums = [], []
    for rows in written_together(graph).values():
        cut = graph.edges.double()
        cut[rows] = 0
        effects.append(float(slow.loss(cut) - slow.loss(graph.edges)))
        # paths begin behind their first point: half a step of each end turns the sum into the trapezoid rule
        ends = (slow.slope(cut) - slow.slope(graph.edges))[rows].masked_fill(~graph.edges[rows], 0).sum()
        sums.append(float(scores[rows].nansum() + ends / (2 * steps)))
    assert max(map(abs, effects)) > 0.1
    assert sums == pytest.approx(effects, abs=0.03 * max(map(abs, effects)))


def test_one_step_is_the_clean_run_alone():
    model = tiny("qwen3", dtype=torch.float64)
    problem = random_problem(model, Graph.of(model.config), 2, [6, 5], 1, "logit_difference", "resample")
    expected = Eap().search(problem).scores.double()
    assert_scores(EapIgActivations(steps=1).search(problem), expected)


def test_heads_of_a_layer_move_together_and_parallel_mlps_do_not_read_them():
    sequential, parallel = (Graph.of(tiny(family).config) for family in ("gpt2", "pythia"))
    for graph, reads in ((sequential, [0, 1, 2, 3, 4, 5, 6]), (parallel, [0, 2, 2, 4, 4, 6, 6])):
        assert [stage.first for stage in stages(graph)] == reads
        assert [list(range(len(graph.writers)))[stage.writers] for stage in stages(graph)] == [*written_together(graph).values()]
    split = Graph.of(tiny("gpt2").config, Scope(split_embeddings=True))
    assert stages(split)[0].writers == slice(0, 2)


def test_a_divergence_has_something_to_say_along_stages():
    model = tiny("llama", dtype=torch.float64)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 2, [6, 5], 1, "kl_divergence", "resample")
    scores = EapIgActivations(3).search(problem).scores
    # behind the last MLP's path too, which embeddings' paths do not lead through
    assert abs(scores[graph.find("m2->logits")]) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.25)])
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "pythia"])
def test_other_precisions_of_stages_are_near_and_batches_change_nothing(family, dtype, tolerance):
    precise = tiny(family, dtype=torch.float64)
    graph = Graph.of(precise.config)
    problem = random_problem(precise, graph, 7, [6, 5, 7], 1, "logit_difference", "mean")
    config = EapIgActivations(steps=2)
    expected, rounded = config.search(problem).scores[graph.edges], replace(problem, model=precise.to(dtype=dtype))
    for batch_size in (None, 2):
        found = EapIgActivations(2, batch_size).search(rounded).scores
        assert float((found[graph.edges] - expected).abs().max()) < tolerance * float(expected.abs().max())


def test_progress_over_stages_adds_up():
    model = tiny("gpt2")
    problem, rounds = random_problem(model, Graph.of(model.config), 1, [5, 4, 5], 1, "logit_difference", "zero"), []
    EapIgActivations(steps=2, batch_size=2).search(problem, rounds.append)
    # the clean run and seven stages of three examples
    assert [r.done for r in rounds] == [*range(2, 17, 2), *range(17, 25)]
    assert {r.total for r in rounds} == {24}


def test_what_cannot_be_scored_is_refused():
    model = tiny("gpt2")
    graph = Graph.of(model.config)
    with pytest.raises(SettingsError, match="accuracy is a count"):
        EapIgActivations().search(random_problem(model, graph, 1, [6], 1, "accuracy", "resample"))
    for wrong in (lambda: EapIgActivations(0), lambda: EapIgActivations(batch_size=0)):
        with pytest.raises(SettingsError, match="at least 1"):
            wrong()
    model.weights.layers[1].attention.W_V[0, 0, 0] = float("nan")
    with pytest.raises(NumericalError, match="nan"):
        EapIgActivations(1).search(random_problem(model, graph, 1, [6], 1, "logit_difference", "zero"))
