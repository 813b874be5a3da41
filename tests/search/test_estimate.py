"""What a search will cost is known before it runs: its outline, its trials and its memory against the search itself."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from subcircuit.engine import ABLATIONS
from subcircuit.search import Acdc, Eap, EdgePruning, Exact, Hybrid, LearnOptimal, Problem, acdc_estimate
from subcircuit.search import memory as memory_module
from subcircuit.search.acdc_estimate import trials_of
from subcircuit.search.acdc_rules import Speculation
from subcircuit.search.attribution import probes
from subcircuit.search.batches import Batches
from subcircuit.search.estimate import estimate
from subcircuit.search.memory import shortage
from subcircuit.search.refine import Refine, coarse
from subcircuit.tasks import metric
from tests.problems import random_task
from tests.tiny_models import tiny

SEARCHES = [
    ("llama", "head", Acdc(0.003, absolute=True), False),
    ("llama", "qkv", Acdc(0.02, head_order="ascending", whole_input=False, speculation=5), False),
    ("gemma2", "qkv, m1=neuron", Acdc(0.05), False),
    ("gpt2", "head, positions=each", Acdc(0.01), False),
    ("neox_sequential", "qkv", Acdc(0.01), True),
]


def case(family: str, scope: str) -> Problem:
    model = tiny(family, 0, torch.float64)
    lengths = [5, 5] if "positions" in scope else [6, 5]
    return Problem.of(model, random_task(model, 3, lengths), "kl_divergence", "resample", scope)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "scope", "config", "restoring"), SEARCHES)
def test_an_outline_that_takes_edges_one_by_one_is_the_search(
    family: str, scope: str, config: Acdc, restoring: bool, monkeypatch: pytest.MonkeyPatch
):
    problem = case(family, scope)
    found = replace(config, direction="denoising" if restoring else "noising").search(problem)
    monkeypatch.setattr(acdc_estimate, "_BLOCKS", (1,))
    outline = acdc_estimate.sketch(problem, config, restoring, 60.0)
    assert outline.first == 0
    assert torch.equal(outline.kept, found.circuit.kept)
    assert 0 < found.circuit.n_edges < problem.graph.n_edges
    rows = Batches.start(problem, len(problem.task)).first.run.rows
    speculation = Speculation(config.speculation, 512 // len(problem.task))
    trials = [trials_of(stage.stays, speculation, len(rows[stage.reach].flat)) for stage in outline.stages]
    assert sum(map(sum, trials)) == found.trials


@pytest.mark.slow
def test_trials_are_known_to_a_factor_before_a_search():
    problem = case("llama", "qkv")
    predicted, found = estimate(problem, Acdc(0.02)), Acdc(0.02).search(problem)
    assert None not in (predicted.trials, predicted.kept, found.trials)
    trials, kept = predicted.trials or 0, predicted.kept or 0
    assert (predicted.edges, predicted.seen, predicted.method) == (problem.graph.n_edges, 1.0, "acdc")
    assert (found.trials or 0) / 1.5 <= trials <= (found.trials or 0) * 1.5
    assert found.circuit.n_edges / 1.5 <= kept <= found.circuit.n_edges * 1.5
    assert predicted.forward_equivalents == predicted.seconds / predicted.forward_seconds > 0
    assert predicted.peak >= predicted.memory.total


def test_where_patience_ends_the_rest_is_judged_by_what_was_seen():
    problem = case("gpt2", "head")
    graph = problem.graph
    some = estimate(problem, Acdc(0.02), patience=0.0)
    # of the last unit, the logits, alone
    logits = int(graph.edges[:, -1].sum())
    assert some.seen == pytest.approx(logits / graph.n_edges)
    assert some.trials is not None
    assert logits <= some.trials * logits / graph.n_edges <= 2 * logits


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [Exact(), Hybrid(most=4, sample=2), Eap(), EdgePruning(steps=5, target=0.5), Exact(direction="both")]
)
def test_other_methods_are_measured_on_a_part(settings: Any):
    problem = replace(case("gpt2", "head"), metric=metric("logit_difference"))
    found = estimate(problem, settings)
    trials = {Exact: problem.graph.n_edges * (2 if getattr(settings, "direction", "") == "both" else 1), Hybrid: 6}
    assert (found.trials, found.kept) == (trials.get(type(settings)), None)
    assert 0 < found.seconds < float("inf")


@pytest.mark.slow
def test_a_refinement_takes_its_seed_s_search_and_growth():
    problem = replace(case("gpt2", "head"), metric=metric("logit_difference"))
    seed = estimate(problem, coarse(problem, Refine()))
    few, many = (estimate(problem, Refine(rounds=rounds, grow=1)) for rounds in (1, 400))
    assert (few.trials, few.kept, few.method) == (seed.trials, None, "refine")
    # half of the seed's edges, one a round
    assert (seed.kept or 0) > 20
    assert many.seconds > few.seconds


@pytest.mark.slow
def test_learning_constants_takes_its_time_as_well():
    problem = replace(case("gpt2", "head"), metric=metric("logit_difference"), ablation=ABLATIONS["mean"])
    plain, learned = (estimate(problem, Eap(), learning).seconds for learning in (None, LearnOptimal(steps=3000)))
    assert learned > 10 * plain


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_is_kept_of_the_runs_is_known_to_the_byte(family: str):
    problem = case(family, "qkv")
    (engine,) = Batches.start(problem, 2).engines
    run = engine.run
    keys = [kept for unit in run.units for kept in unit.memory]
    held = [run.differences, run.prefixes, *run.streams, *run.ablated_streams, *keys]
    assert Acdc().memory(problem).runs == sum(tensor.nbytes for tensor in held)
    # in two batches as well
    assert Acdc(batch_size=1).memory(problem).runs == sum(tensor.nbytes for tensor in held)
    (probe,) = probes(problem, None)
    streams = {id(stream): stream for stream in probe.contrast.streams}.values()
    held = [probe.contrast.differences, *streams]
    assert Eap().memory(problem).runs == sum(tensor.nbytes for tensor in held)


def test_too_little_memory_is_told_with_numbers_and_a_way_out(monkeypatch: pytest.MonkeyPatch):
    problem = case("gpt2", "qkv")
    assert shortage(problem, Acdc().memory(problem)) is None
    monkeypatch.setattr(memory_module, "free_memory", lambda device: 1000)
    said, of_batches = (shortage(problem, method.memory(problem)) for method in (Acdc(), Eap()))
    assert said is not None
    assert of_batches is not None
    assert "fewer --examples, --dtype bfloat16, or a coarser --scope than qkv" in said
    assert "a smaller --batch-size" in of_batches
    monkeypatch.setattr(memory_module, "free_memory", lambda device: None)
    assert shortage(problem, Acdc().memory(problem)) is None
