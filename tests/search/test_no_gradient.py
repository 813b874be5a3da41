"""A metric without a gradient where a method takes one is refused: the scores would all be zero."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from subcircuit.engine import ABLATIONS
from subcircuit.errors import NoGradientError
from subcircuit.evaluate import Contest, discover
from subcircuit.graph import Graph, Scope
from subcircuit.search import (
    METHODS,
    AtpStar,
    Eap,
    EapIgActivations,
    EapIgInputs,
    Hisp,
    Problem,
    Relp,
    effects_by_example,
    neuron_scores,
)
from subcircuit.search.attribution import check_not_all_zero, metric_with_gradient
from subcircuit.tasks import METRICS, Answers, Metric, metric
from tests.problems import random_task
from tests.tiny_models import tiny

AT_CLEAN: list[Any] = [Eap(), Relp(), AtpStar(), AtpStar(grad_drop=False), Hisp(), EapIgInputs(1), EapIgActivations(1)]


@pytest.fixture(scope="module")
def problem() -> Problem:
    model = tiny("llama_gqa")
    return Problem(model, Graph.of(model.config), random_task(model, 1, [6, 5]), metric("kl_divergence"))


@pytest.mark.parametrize("settings", AT_CLEAN, ids=str)
@pytest.mark.parametrize("name", [name for name, one in METRICS.items() if one.distance])
def test_distances_from_the_model_are_refused_where_gradients_are_taken_at_the_model(settings: Any, name: str) -> None:
    model = tiny("llama_gqa")
    with pytest.raises(NoGradientError, match=rf"{name} is a distance.*Use metric logit_difference, or .*eap-ig-inputs"):
        discover(model, random_task(model, 1, [6, 5]), settings, metric=name, scope=Scope("head"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eap-ig-inputs", "eap-ig-activations", "clean-corrupted", "exact", "hybrid"])
def test_methods_that_look_further_score_by_a_distance(problem: Problem, name: str) -> None:
    graph = Graph.of(problem.model.config, Scope("block"))
    method = METHODS[name]()
    method.check(problem)
    scores = method.search(replace(problem, graph=graph))
    assert float(scores.scores[graph.edges].abs().max()) > 1e-3


def test_neurons_and_single_prompts_are_refused_too(problem: Problem) -> None:
    for search in (
        lambda: neuron_scores(problem, Eap()),
        lambda: next(effects_by_example(problem)),
        lambda: Contest(problem, problem).check([EapIgInputs(), Relp()]),
    ):
        with pytest.raises(NoGradientError, match="distance from the model's own logits"):
            search()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kl_divergence", "accuracy"])
def test_only_what_the_caller_can_choose_is_advised(name: str) -> None:
    """The metric that is advised works in the same call, and no method is advised where none can be chosen."""
    model = tiny("llama_gqa")
    problem = Problem(model, Graph.of(model.config), random_task(model, 1, [6, 5]), metric(name))
    calls: list[Callable[[Problem], object]] = [
        lambda p: neuron_scores(p, Eap()),
        lambda p: next(effects_by_example(p)),
        lambda p: discover(p.model, p.task, Eap(), metric=p.metric, scope=Scope("head")),
    ]
    for call, methods in zip(calls, (False, False, True), strict=True):
        with pytest.raises(NoGradientError) as refused:
            call(problem)
        advised = re.findall(r"[Uu]se metric (\w+)(.*)\.$", str(refused.value))
        assert [way for way, _ in advised] == ["logit_difference"]
        assert ("method" in advised[0][1]) == methods
        call(replace(problem, metric=metric(advised[0][0])))


def test_every_declared_distance_has_its_minimum_at_the_model() -> None:
    """The declaration is held to what is measured: the gradient at the model's own logits, and away from them."""
    model = tiny("llama_gqa")
    task = random_task(model, 1, [6, 5])
    logits = task.answers.rows(model(task.clean)).detach().double()
    for one in METRICS.values():
        if one.differentiable:
            sizes = [gradient_at(one, task.answers, logits, logits + shift) for shift in (0.0, torch.randn_like(logits))]
            assert (sizes[0] < 1e-12) == one.distance, one.name
            assert sizes[1] > 1e-4, one.name


def gradient_at(measured: Metric, answers: Answers, reference: torch.Tensor, logits: torch.Tensor) -> float:
    from subcircuit.engine.readout import readout_of

    bound, leaf = measured.bind(answers, reference), logits.clone().requires_grad_()
    bound(readout_of(leaf, bound.needs)).sum().backward()
    assert leaf.grad is not None
    return float(leaf.grad.abs().max())


def flat(answers: Answers, reference: torch.Tensor | None) -> tuple[Any, Callable[[Any], torch.Tensor]]:
    from subcircuit.engine.readout import Needs

    return Needs(logits=True), lambda readout: (readout.logits * 0.0).double().sum(-1)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [*AT_CLEAN, EapIgInputs(), METHODS["clean-corrupted"]()], ids=str)
def test_what_is_not_declared_is_measured(settings: Any) -> None:
    model = tiny("gpt2")
    measured = Metric("flat", "no slope anywhere", "lower", flat)
    problem = Problem(model, Graph.of(model.config), random_task(model, 1, [6, 5]), measured)
    with pytest.raises(NoGradientError, match=r"every score is 0 on the 2 pairs of random: either flat has no gradient"):
        settings.search(problem)
    with pytest.raises(NoGradientError, match=r"every score is 0.* Use another metric or corrupted prompts that differ more\.$"):
        neuron_scores(problem, Eap())


def test_one_score_is_enough() -> None:
    model = tiny("gpt2")
    problem = Problem(model, Graph.of(model.config), random_task(model, 1, [6]), metric("logit_difference"), ABLATIONS["zero"])
    check_not_all_zero(problem, torch.tensor([0.0, -1e-30]))


def test_the_metric_that_has_a_gradient() -> None:
    model = tiny("gpt2")
    problem = Problem(model, Graph.of(model.config), random_task(model, 1, [6]), metric("match"))
    for name in ("logit_difference", "probability_difference", "negative_log_likelihood"):
        assert metric_with_gradient(replace(problem, metric=metric(name))).name == name
    for name in ("kl_divergence", "match", "accuracy", "squared_error"):
        assert metric_with_gradient(replace(problem, metric=metric(name))).name == "logit_difference"
