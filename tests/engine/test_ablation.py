"""Ablations as values: names, equality, and constants that fit their graph."""

import pytest
import torch

from subcircuit.engine import ABLATIONS, Optimal, ablated_by_batch, ablation_named
from subcircuit.errors import GraphError, SettingsError, UnknownNameError
from subcircuit.graph import Graph, Scope
from tests.problems import random_task
from tests.tiny_models import tiny


def test_every_ablation_has_a_name_and_optimal_says_how_to_come_by_it():
    assert all(ablation_named(name).name == name for name in ABLATIONS)
    assert Optimal(torch.ones(2, 3)).name == "optimal"
    with pytest.raises(SettingsError, match="learn_optimal"):
        ablation_named("optimal")
    with pytest.raises(UnknownNameError, match="Did you mean 'optimal'"):
        ablation_named("optimum")


def test_optimal_ablations_are_equal_when_their_constants_are():
    constants = torch.arange(6.0).view(2, 3)
    one, same, other = Optimal(constants), Optimal(constants.double()), Optimal(constants + 1)
    assert one == same and hash(one) == hash(same)
    assert one != other and one not in ABLATIONS.values()
    assert {one, same, other} == {one, other}


def test_constants_stand_at_every_position_and_must_fit_the_graph():
    model = tiny("gpt2", dtype=torch.bfloat16)
    graph, task = Graph.of(model.config), random_task(model, 1, [5, 3])
    constants = torch.randn(len(graph.writers), model.config.d_model)
    values = Optimal(constants).values(model, graph, task.corrupted)
    assert values.dtype == torch.bfloat16
    assert torch.equal(values, constants.bfloat16()[:, None, None].expand(-1, 2, 5, -1))
    part = ablated_by_batch(model, graph, task.corrupted, Optimal(constants))(task.corrupted[1:2], 1)
    assert torch.equal(part, values[:, 1:, :3])
    with pytest.raises(GraphError, match=r"constants of shape \(16, 32\) do not fit 7 writers of width 32"):
        Optimal(constants).values(model, Graph.of(model.config, Scope("block")), task.corrupted)
