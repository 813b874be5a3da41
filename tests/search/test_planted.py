"""The planted circuit is what its builder says, and every method that scores edges finds more of it than chance does."""

import pytest
import torch

from subcircuit.engine import Resample, run_circuit
from subcircuit.evaluate import recovery
from subcircuit.graph import Graph
from subcircuit.search import METHODS, Acdc, Problem, RandomScores, Ugs
from subcircuit.tasks import metric
from tests.planted import TRUE_EDGES, planted, planted_circuit, planted_task


def difference(model, task, logits):
    """Mean logit of the right answer above that of the wrong one."""
    rows = task.answers.rows(logits)
    return float((rows.gather(1, task.answers.correct) - rows.gather(1, task.answers.wrong)).mean())


@torch.no_grad()
def test_true_edges_matter_one_by_one_and_others_do_not():
    model = planted()
    graph, task = Graph.of(model.config), planted_task(model)
    ablated = Resample().values(model, graph, task.corrupted)
    whole = difference(model, task, model(task.clean))
    assert whole > 3
    for writer, reader in graph.edges.nonzero().tolist():
        kept = graph.edges.clone()
        kept[writer, reader] = False
        lost = whole - difference(model, task, run_circuit(model, graph, kept, task.clean, ablated))
        if f"{graph.writers[writer]}->{graph.readers[reader]}" in TRUE_EDGES:
            assert lost > 0.5 * whole
        else:
            assert abs(lost) < 0.01 * whole
    alone = difference(model, task, run_circuit(model, graph, planted_circuit(model).kept, task.clean, ablated))
    assert alone == pytest.approx(whole, rel=0.01)


# how much of the circuit a ranking finds at least: area under its ROC curve
LEAST = {
    # of two layers, dropping one leaves nothing of an effect that passes through it
    "atp-star": 0.75,
    # information flows from the embedding into every head, whether it is used or not
    "ifr": 0.7,
    # nodes: all edges between the three true ones look alike
    "hisp": 0.9,
    "subnetwork-probing": 0.9,
}


def area(scores):
    return recovery(planted_circuit(planted()), scores.scores).roc


def planted_problem():
    model = planted()
    return Problem(model, Graph.of(model.config), planted_task(model), metric("logit_difference"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.ranks and name != "random"])
def test_every_method_finds_more_than_chance(name):
    problem = planted_problem()
    chance = [area(RandomScores(seed).search(problem)).auc for seed in range(20)]
    found = area(METHODS[name]().search(problem))
    assert found.auc > LEAST.get(name, 0.99) > sum(chance) / len(chance)
    assert found.auc_pessimistic > 0.5


@pytest.mark.slow
def test_constants_trained_along_do_no_harm():
    assert area(Ugs(learn_constants=True).search(planted_problem())).auc > 0.9


def test_acdc_finds_the_planted_circuit():
    found = Acdc(threshold=0.1).search(planted_problem())
    assert set(found.circuit.names) == set(TRUE_EDGES)
