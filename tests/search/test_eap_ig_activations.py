"""Integrated gradients over activations equal autograd at circuits whose edges out of one stage are partly cut."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.errors import NumericalError, SettingsError
from subcircuit.graph import Graph, Scope
from subcircuit.search.eap import Eap, EapIgActivations, stages
from tests.problems import random_problem
from tests.search.autograd import Autograd, assert_scores, assert_scores_or_refused
from tests.search.test_attribution import problems
from tests.tiny_models import FAMILIES, tiny


def written_together(graph):
    """Rows of the embedding's writers, and of each layer's attention and MLP."""
    groups = {}
    for index, writer in enumerate(graph.writers):
        name = str(writer)
        groups.setdefault("embed" if "embed" in name else name.partition(".")[0], []).append(index)
    return groups


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


def test_a_divergence_has_something_to_say():
    model = tiny("llama", dtype=torch.float64)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 2, [6, 5], 1, "kl_divergence", "resample")
    scores = EapIgActivations(3).search(problem).scores
    # behind the last MLP's path too, which embeddings' paths do not lead through
    assert abs(scores[graph.find("m2->logits")]) > 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.25)])
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "pythia"])
def test_other_precisions_are_near_and_batches_change_nothing(family, dtype, tolerance):
    precise = tiny(family, dtype=torch.float64)
    graph = Graph.of(precise.config)
    problem = random_problem(precise, graph, 7, [6, 5, 7], 1, "logit_difference", "mean")
    config = EapIgActivations(steps=2)
    expected, rounded = config.search(problem).scores[graph.edges], replace(problem, model=precise.to(dtype=dtype))
    for batch_size in (None, 2):
        found = EapIgActivations(2, batch_size).search(rounded).scores
        assert float((found[graph.edges] - expected).abs().max()) < tolerance * float(expected.abs().max())


def test_progress_adds_up():
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
