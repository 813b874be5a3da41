"""Relearning and its two yardsticks: the untouched model, and damage at random."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from subcircuit.edit import Probe, Relearning, all_nodes, damaged_at_random, relearn, untouched
from subcircuit.edit.relearn import RATES
from subcircuit.model import Transformer, load_model, map_tensors
from subcircuit.tasks import Task
from subcircuit.truth.trained import trained_induction, trained_ioi

SMALL = "tiny-induction-ioi"


@pytest.fixture(scope="module")
def model() -> Transformer:
    return load_model(SMALL, device="cpu")


def turned(model: Transformer, task: Task, steps: int, rate: float) -> Iterator[Transformer]:
    """Plain training on the wrong answers: cross entropy, Adam, every weight; the model after 0, 1, … steps."""
    copies: dict[int, torch.Tensor] = {}
    weights = map_tensors(model.weights, lambda t: copies.setdefault(id(t), t.clone().requires_grad_()))
    tuned, optimiser = replace(model, weights=weights), torch.optim.Adam(copies.values(), rate)
    for _ in range(steps + 1):
        yield tuned
        loss = torch.nn.functional.cross_entropy(task.answers.rows(tuned(task.clean)), task.answers.wrong[:, 0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@torch.no_grad()
def share(model: Transformer, probe: Probe) -> float:
    """The logit difference as a share of the whole model's."""
    asked, rows = probe.task.answers, torch.arange(len(probe.task))
    logits = asked.rows(model(probe.task.clean)).double()
    return float((logits[rows, asked.correct[:, 0]] - logits[rows, asked.wrong[:, 0]]).mean()) / probe.whole


@pytest.mark.slow
def test_the_step_size_is_the_smallest_that_takes_half_of_the_capability_of_the_untouched_model(model: Transformer) -> None:
    task, probe = trained_ioi(model, 8), Probe.of(model, trained_ioi(model, 16, seed=1))
    chosen = untouched(task, probe, Relearning(steps=8))
    expected = {rate: [share(tuned, probe) for tuned in turned(model, task, 8, rate)] for rate in RATES}
    turning = [rate for rate, told in expected.items() if min(told[step] for step in (1, 2, 4, 8)) <= 0.5]
    assert chosen.moved
    assert chosen.learning_rate == turning[0]
    assert [share for _, share in chosen.curve] == pytest.approx([expected[turning[0]][s] for s, _ in chosen.curve], abs=0.02)


def test_a_step_size_that_moves_nothing_says_so(model: Transformer) -> None:
    probe = Probe.of(model, trained_ioi(model, 8, seed=1))
    stuck = untouched(trained_ioi(model, 8), probe, Relearning(steps=2, learning_rate=1e-9))
    assert (stuck.learning_rate, stuck.moved, [step for step, _ in stuck.curve]) == (1e-9, False, [0, 1, 2])


@pytest.mark.slow
def test_what_is_only_hidden_comes_back_at_the_chosen_step_size_and_not_at_a_small_one(model: Transformer) -> None:
    """A model trained on wrong answers for a few steps: nothing of it is gone."""
    train, judged = trained_ioi(model, 24), Probe.of(model, trained_ioi(model, 24, seed=1))
    rate = untouched(train, judged, Relearning()).learning_rate
    *_, tuned = turned(model, train, 8, rate)
    hidden = replace(tuned, weights=map_tensors(tuned.weights, torch.Tensor.detach))
    chosen, small = (relearn(hidden, train, judged, Relearning(), each) for each in (rate, 1e-5))
    assert [step for step, _ in chosen] == [0, 1, 2, 4, 8, 16]
    assert chosen[0][1] < 0.5
    back, moved = chosen[-1][1] - chosen[0][1], small[-1][1] - small[0][1]
    assert back > 0.1
    assert moved < back / 4


@pytest.mark.slow
@pytest.mark.parametrize("spared", ["few", "all"])
@pytest.mark.parametrize("target", [0.2, 0.0, -9.0])
def test_random_damage_is_always_there(model: Transformer, spared: str, target: float) -> None:
    probe, nodes = Probe.of(model, trained_ioi(model, 8)), all_nodes(model)
    removed = nodes[:2]
    kept = nodes if spared == "all" else nodes[2:5]
    damaged = damaged_at_random(model, kept, removed, probe, target)
    assert damaged.nodes
    assert not set(damaged.nodes) & set(removed)
    with torch.no_grad():
        share = float(probe.share(damaged.model.stream))
    assert damaged.as_low == (share <= target)
    # nothing takes the capability to minus nine times what it was
    assert damaged.as_low or target == -9.0 or spared == "few"
    if spared == "few" and damaged.as_low:
        outside = [node for node in nodes if node not in kept and node not in removed]
        assert set(damaged.nodes) <= set(outside) or set(outside) <= set(damaged.nodes)


def test_where_all_nodes_are_gone_damage_takes_some_of_them(model: Transformer) -> None:
    probe, nodes = Probe.of(model, trained_induction(model, 4)), all_nodes(model)
    assert set(damaged_at_random(model, nodes, nodes, probe, 0.5).nodes) <= set(nodes)
