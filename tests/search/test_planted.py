"""The planted circuit is what its builder says, and every method that scores edges finds more of it than chance does."""

import pytest
import torch

from subcircuit.evaluate import recovery
from subcircuit.graph import Graph
from subcircuit.run import Resample, ablated_values, run_circuit
from subcircuit.search import (
    Behaviour,
    CleanCorrupted,
    Eap,
    EapIgInputs,
    Hisp,
    Ifr,
    RandomScores,
    clean_corrupted,
    eap,
    eap_ig_inputs,
    hisp,
    ifr,
    random_scores,
)
from subcircuit.search.edge_pruning import EdgePruning, edge_pruning
from subcircuit.search.subnetwork_probing import SubnetworkProbing, subnetwork_probing
from subcircuit.search.ugs import Ugs, ugs
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
    ablated = ablated_values(model, graph, task.corrupted, Resample())
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


METHODS = {
    "eap": (eap, Eap(), 0.99),
    "eap-ig-inputs": (eap_ig_inputs, EapIgInputs(), 0.99),
    "clean-corrupted": (clean_corrupted, CleanCorrupted(), 0.99),
    "hisp": (hisp, Hisp(), 0.9),
    # information flows from the embedding into every head, whether it is used or not
    "ifr": (ifr, Ifr(), 0.7),
    # nodes: all edges between the three true ones look alike
    "subnetwork-probing": (subnetwork_probing, SubnetworkProbing(), 0.9),
    "edge-pruning": (edge_pruning, EdgePruning(), 0.99),
    "ugs": (ugs, Ugs(), 0.99),
    "ugs with constants": (ugs, Ugs(learn_constants=True), 0.9),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_finds_more_than_chance(name):
    model = planted()
    graph, known = Graph.of(model.config), planted_circuit(model)
    behaviour = Behaviour(planted_task(model), metric("logit_difference"))
    search, config, least = METHODS[name]
    chance = [recovery(known, random_scores(model, graph, behaviour, RandomScores(seed)).values).roc.auc for seed in range(20)]
    found = recovery(known, search(model, graph, behaviour, config).values).roc
    assert found.auc > least > sum(chance) / len(chance)
    assert found.auc_pessimistic > 0.5
