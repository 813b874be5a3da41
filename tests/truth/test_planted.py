"""Planted mechanisms do what they say, and cutting edges, alone and in pairs, shows the circuit that was planted."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from subcircuit.engine import Resample, Zero
from subcircuit.errors import GraphError, UnknownNameError, UnsupportedModelError
from subcircuit.evaluate.validation import case_problem
from subcircuit.graph import Circuit, Graph, GraphShape, Scope
from subcircuit.search import Acdc, Exact
from subcircuit.search.direction import Direction
from subcircuit.tasks import metric
from subcircuit.truth import PLANTED, derive, planted_case
from tests.tiny_models import tiny
from tests.truth.cutting import effects_of_single_cuts, error, error_without, errors_of_single_cuts

ABLATIONS = pytest.mark.parametrize("ablation", [Zero(), Resample()], ids=["zero", "resample"])
NAMES = pytest.mark.parametrize("name", list(PLANTED))
AS_THEY_STAND = pytest.mark.parametrize("name", [p.name for p in PLANTED.values() if not p.redundant])


@NAMES
def test_the_model_does_what_was_planted(name):
    case = planted_case(name, Zero())
    prompts, logits = case.task.clean.ids.tolist(), case.task.answers.rows(case.model(case.task.clean))
    for prompt, row in zip(prompts, logits, strict=True):
        _, first, second, *_, last = prompt
        match name:
            case "induction":
                expected = [float(token == prompt[prompt.index(last) + 1]) for token in range(5)]
            case "inhibition":
                expected = [float(token in prompt[1:3] and token != prompt[3]) for token in range(4)]
            case "or-gate":
                expected = [float(first)]
            case "and-gate":
                expected = [float(first and second)]
            case _:
                expected = [0.5 * (token == first) for token in range(4)]
        torch.testing.assert_close(row[: len(expected)], torch.tensor(expected), atol=1e-4, rtol=0)


@pytest.mark.slow
@ABLATIONS
@NAMES
def test_what_is_derived_from_the_weights_is_what_was_planted(name, ablation):
    case = planted_case(name, ablation)
    assert derive(case.model, case.graph, case.task, ablation).names == case.circuit.names


@ABLATIONS
@NAMES
def test_the_planted_edges_are_enough_in_every_precision(name, ablation):
    case = planted_case(name, ablation)
    assert error(case, case.circuit.kept) < 1e-5
    assert error(case, torch.zeros_like(case.circuit.kept)) > 0.4
    assert error(replace(case, model=case.model.to(dtype=torch.bfloat16)), case.circuit.kept) < 1e-2


@pytest.mark.slow
@ABLATIONS
@AS_THEY_STAND
def test_cutting_any_edge_shows_whether_it_was_planted(name, ablation):
    case = planted_case(name, ablation)
    errors = errors_of_single_cuts(case)
    assert errors[case.circuit.kept].min() > 0.3
    assert errors[case.graph.edges & ~case.circuit.kept].max() < 1e-5
    effects = effects_of_single_cuts(case)
    assert torch.equal(effects > 1e-3, errors > 1e-3)


@ABLATIONS
def test_an_or_gate_stands_until_both_its_inputs_are_cut(ablation):
    case = planted_case("or-gate", ablation)
    errors = errors_of_single_cuts(case)
    last = case.graph.find("m0->logits")
    assert errors[last] > 0.9
    errors[last] = torch.nan
    assert errors.nan_to_num().max() < 1e-5
    one, other = ([edge for edge in case.circuit.names if f"a0.h{head}" in edge] for head in (0, 1))
    for pair in product(one, other):
        assert error_without(case, [case.graph.find(edge) for edge in pair]) > 0.3, pair


@pytest.mark.slow
@ABLATIONS
@AS_THEY_STAND
def test_acdc_finds_what_was_planted(name, ablation):
    case = planted_case(name, ablation)
    assert Acdc(1e-6).search(case_problem(case)).circuit.names == case.circuit.names


def test_acdc_finds_one_way_through_an_or_gate():
    case = planted_case("or-gate", Resample())
    found = Acdc(1e-6).search(case_problem(case)).circuit
    assert len(found.names) == 3
    assert set(found.names) < set(case.circuit.names)


def test_nothing_is_derived_where_directions_mean_nothing():
    case, other = planted_case("induction", Zero()), tiny("attention_only")
    with pytest.raises(UnsupportedModelError, match="without norms"):
        derive(other, Graph.of(other.config), case.task, Zero())
    with pytest.raises(GraphError, match="at scope qkv"):
        derive(case.model, Graph.of(case.model.config, Scope("head")), case.task, Zero())


def test_mistyped_names_and_foreign_circuits_are_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'induction'"):
        planted_case("inductoin", Zero())
    case = planted_case("induction", Zero())
    with pytest.raises(GraphError, match="case induction: the circuit is of a graph that is not the model's"):
        replace(case, circuit=Circuit.empty(Graph(GraphShape(1, 1, 1), Scope())))


def arms(name: str, direction: Direction) -> tuple[set[str], set[str]]:
    """The edges between heads and the gate that acdc keeps, and those with an exact effect."""
    problem = case_problem(planted_case(name, Resample()), metric("squared_error"))
    kept = Acdc(0.1, direction=direction).search(problem).circuit
    effects = Exact(direction=direction).search(problem)
    both = {"a0.h0->m0", "a0.h1->m0"}
    return both & set(kept.names), {edge for edge in both if effects[edge] > 0.1}


@pytest.mark.slow
def test_either_direction_finds_what_the_other_does_not():
    both = {"a0.h0->m0", "a0.h1->m0"}
    # either arm of an OR is enough: cut one by one none matters, and the greedy search loses the first; each brings all back
    assert arms("or-gate", "noising") == ({"a0.h0->m0"}, set())
    assert arms("or-gate", "denoising") == (both, both)
    assert arms("or-gate", "both") == (both, both)
    # an AND needs both; restored one by one none matters where both are off, and the greedy search restores the first
    assert arms("and-gate", "noising") == (both, both)
    assert arms("and-gate", "denoising") == ({"a0.h0->m0"}, set())
    assert arms("and-gate", "both") == (both, both)


def test_both_directions_are_two_phases_whose_trials_add_up():
    problem, steps = case_problem(planted_case("or-gate", Resample()), metric("squared_error")), []
    found = Acdc(0.1, direction="both").search(problem, steps.append)
    phases = [[step for step in steps if step.phase == f"acdc {number}/2"] for number in (1, 2)]
    assert steps == phases[0] + phases[1]
    for phase in phases:
        trials = [step.numbers["trials"] for step in phase]
        assert trials == sorted(trials)
        assert phase[-1].share == 1
    assert sum(phase[-1].numbers["trials"] for phase in phases) == found.trials
