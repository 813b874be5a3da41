"""Compiled programs: our model is tracr's, and the derived truth is what cutting edges shows."""

import numpy as np
import pytest
import torch

from subcircuit.engine import Resample, Zero, last_stream, writer_values
from subcircuit.errors import ModelError
from subcircuit.evaluate.validation import case_problem
from subcircuit.graph import Circuit
from subcircuit.search import Acdc
from subcircuit.truth import PROGRAMS, Program, compile_program, tracr_case, tracr_task, with_whole_inputs
from tests.truth.cutting import effects_of_single_cuts, error, error_without

# programs are compiled, which takes seconds each
pytestmark = pytest.mark.slow

NAMES = [program.name for program in PROGRAMS]
ABLATIONS = pytest.mark.parametrize("ablation", [Zero(), Resample()], ids=["zero", "resample"])

# as published (Conmy et al. 2023), without the edges that join a head to its own inputs
REVERSE = """a3.h0->logits m2->a3.h0<q> pos_embed->a3.h0<k> token_embed->a3.h0<v> m1->m2 m0->m1 token_embed->m1 pos_embed->m1
    a0.h0->m0 token_embed->m0 token_embed->a0.h0<v>"""
PROPORTION = """a1.h0->logits token_embed->a1.h0<q> pos_embed->a1.h0<q> token_embed->a1.h0<k> pos_embed->a1.h0<k> m0->a1.h0<v>
    token_embed->m0"""


@pytest.mark.parametrize("name", ["reverse", "proportion", "shuffle-dyck", "two-heads"])
def test_our_forward_pass_is_that_of_the_compiled_model(compiled, name):
    made = compiled(name)
    task = tracr_task(made)
    theirs = made.assembled.forward(made.assembled.params, task.clean.ids.numpy()).transformer_output.output
    graph = tracr_case(made, Zero()).graph
    nothing = torch.zeros_like(writer_values(made.model, graph, task.clean))
    ours = last_stream(made.model, graph, graph.edges, task.clean, nothing)
    torch.testing.assert_close(ours, torch.from_numpy(np.array(theirs)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_our_model_computes_the_program(compiled, name):
    made = compiled(name)
    logits = made.model(tracr_task(made).clean)
    for row, prompt in zip(logits, made.program.prompts(), strict=True):
        for pos, value in enumerate(made.rasp(prompt)):
            if value is None:
                continue
            if made.values:
                assert int(row[pos + 1].argmax()) == made.values[value], (prompt, pos)
            else:
                assert float(row[pos + 1, 0]) == pytest.approx(float(value), abs=1e-4), (prompt, pos)


@ABLATIONS
@pytest.mark.parametrize("name", NAMES)
def test_cutting_every_edge_shows_the_derived_truth(compiled, name, ablation):
    case = tracr_case(compiled(name), ablation)
    assert error(case, case.circuit.kept) < 1e-4
    effects = effects_of_single_cuts(case)
    true = effects[case.circuit.kept]
    assert len(true) > 1
    assert effects[case.graph.edges & ~case.circuit.kept].abs().max() < 1e-9
    if not case.redundant or isinstance(ablation, Resample):
        assert true.min() > 1e-3


def test_what_is_found_in_two_ways_needs_either(compiled):
    case = tracr_case(compiled("contains-twice"), Zero())
    averaged, counted = (case.graph.find(edge) for edge in ("a1.h0->m2", "token_embed->a0.h0<k>"))
    assert case.circuit.kept[averaged]
    assert case.circuit.kept[counted]
    assert error_without(case, [averaged]) < 1e-4


@pytest.mark.parametrize(("name", "edges", "count"), [("reverse", REVERSE, 15), ("proportion", PROPORTION, 10)])
def test_truth_under_zero_is_the_published_one(compiled, name, edges, count):
    circuit = tracr_case(compiled(name), Zero()).circuit
    assert circuit.names == sorted(edges.split())
    assert with_whole_inputs(circuit) == count


@pytest.mark.parametrize(
    ("name", "edges"),
    [
        ("reverse", ["a3.h0->logits", "token_embed->a3.h0<v>"]),
        ("proportion", ["a1.h0->logits", "m0->a1.h0<v>", "token_embed->m0"]),
    ],
)
def test_truth_under_resample_is_the_published_one(compiled, name, edges):
    assert tracr_case(compiled(name), Resample()).circuit.names == edges


@ABLATIONS
@pytest.mark.parametrize("name", ["proportion", "pattern", "pair-balance", "two-heads"])
def test_acdc_finds_the_truth(compiled, name, ablation):
    case = tracr_case(compiled(name), ablation)
    found = Acdc(1e-6).search(case_problem(case)).circuit
    assert found.compare(Circuit(case.graph, case.circuit.kept)).jaccard == 1, set(found.names) ^ set(case.circuit.names)


def test_prompts_are_all_there_are_beside_others():
    for program in PROGRAMS:
        prompts = program.prompts()
        assert len(set(prompts)) == len(prompts) >= 6
        assert all(len(prompt) == program.length for prompt in prompts)


def test_programs_that_do_not_compile_are_told():
    def averages_words():
        from tracr.rasp import rasp

        everywhere = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.TRUE)
        return rasp.Aggregate(everywhere, rasp.numerical(rasp.tokens), default=0)

    with pytest.raises(ModelError, match="tracr does not compile wordy over the tokens a, b: "):
        compile_program(Program("wordy", "the mean of words", ("a", "b"), 3, averages_words))
    with pytest.raises(ModelError, match="ZeroDivisionError"):
        compile_program(Program("broken", "nothing", ("a",), 3, lambda: 1 // 0))
