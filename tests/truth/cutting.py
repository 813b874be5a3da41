"""The truth about a truth: run circuits on all prompts of a case and see how far their logits are from the model's."""

from collections.abc import Iterable

import torch
from torch import Tensor

from subcircuit.engine import run_circuit
from subcircuit.evaluate.validation import case_problem
from subcircuit.search.exact import Exact
from subcircuit.truth import Case


@torch.no_grad()
def error(case: Case, kept: Tensor) -> float:
    """The largest difference between a circuit's logits and the model's, over all answers."""
    model, task = case.model, case.task
    ablated = case.ablation.values(model, case.graph, task.corrupted)
    logits = run_circuit(model, case.graph, kept, task.clean, ablated)
    return float((task.answers.rows(logits) - task.answers.rows(model(task.clean))).abs().max())


def error_without(case: Case, edges: Iterable[tuple[int, int]]) -> float:
    """The error of the model with these edges cut."""
    kept = case.graph.edges.clone()
    for writer, reader in edges:
        kept[writer, reader] = False
    return error(case, kept)


def errors_of_single_cuts(case: Case) -> Tensor:
    """The error of the model with each edge cut, at its place; NaN where there is none."""
    errors = torch.full(case.graph.edges.shape, torch.nan)
    for writer, reader in case.graph.edges.nonzero().tolist():
        errors[writer, reader] = error_without(case, [(writer, reader)])
    return errors


def effects_of_single_cuts(case: Case) -> Tensor:
    """The mean squared error of every single cut, by the engine that does them all at once."""
    return Exact().search(case_problem(case)).scores
