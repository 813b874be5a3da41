"""Refinement: its loss, the trials that prune, the gradients that nominate, and where it ends on models whose circuits are known."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from subcircuit.engine import ABLATIONS, Resample, run_circuit
from subcircuit.engine.readout import readout_of
from subcircuit.evaluate.validation import case_problem
from subcircuit.graph import Circuit, Graph, Scope
from subcircuit.search import Acdc, Problem, Refine, refine_circuit
from subcircuit.search.batches import Batches
from subcircuit.search.growth import Wiring, chains, with_chains
from subcircuit.search.objective import Panel, grown, objective
from subcircuit.search.refine import Refinement
from subcircuit.tasks import metric, with_positions
from subcircuit.truth import case
from tests.engine.test_positions import drawn
from tests.problems import random_kept, random_problem
from tests.tiny_models import FAMILIES, tiny

pytestmark = pytest.mark.slow

METRICS = ["logit_difference", "kl_divergence", "probability_difference", "negative_log_likelihood"]
LEVELS = ["block", "head", "qkv", "qkv, kv=grouped", "qkv, m1=neuron"]


def losses_of(problem, kept):
    """The metric's loss of each example, from a masked forward pass of the whole circuit."""
    model, graph = problem.model, problem.graph
    task = with_positions(graph, problem.task)
    ablated = problem.ablation.values(model, graph, task.corrupted)
    bound = problem.metric.bind(task.answers, task.answers.rows(model(task.clean)))
    logits = task.answers.rows(run_circuit(model, graph, kept, task.clean, ablated))
    return task.answers.per_example(bound(readout_of(logits, bound.needs)))


def loss_by_hand(problem, kept):
    """J, example by example."""
    edges = problem.graph.edges
    empty = torch.zeros_like(edges)
    circuit, whole, none = (losses_of(problem, mask).tolist() for mask in (kept, edges, empty))
    unit = sum((m - e) ** 2 for m, e in zip(whole, none, strict=True)) / len(whole)
    kl, apart = (losses_of(replace(problem, metric=metric("kl_divergence")), mask).tolist() for mask in (kept, empty))
    nats = sum(apart) / len(apart)
    return sum((c - m) ** 2 / unit + k / nats for c, m, k in zip(circuit, whole, kl, strict=True)) / len(whole)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4)
@given(
    seed=st.integers(0, 2**20),
    level=st.sampled_from(LEVELS),
    ablation=st.sampled_from(sorted(ABLATIONS)),
    metric_name=st.sampled_from(METRICS),
    share=st.sampled_from([0.03, 0.15, 0.6]),
    batch_size=st.sampled_from([1, 3]),
)
def test_trials_without_one_edge_are_masked_runs_without_it(family, seed, level, ablation, metric_name, share, batch_size):
    model = tiny(family, dtype=torch.float64)
    # not every family has MLPs to resolve into neurons
    resolves = model.config.d_mlp and model.config.experts is None
    graph = Graph.of(model.config, Scope.named(level if resolves else level.removesuffix(", m1=neuron")))
    problem = random_problem(model, graph, seed, [6, 4, 5], 2, metric_name, ablation)
    agree(problem, seed, share, batch_size)


@pytest.mark.parametrize("positions", ["each", "roles"])
@settings(max_examples=4)
@given(seed=st.integers(0, 2**20), share=st.sampled_from([0.05, 0.3]), level=st.sampled_from(["qkv", "qkv, a1=block, m1=neuron"]))
def test_trials_without_one_edge_at_a_position_are_masked_runs_without_it(positions, seed, share, level):
    model, graph, task = drawn("llama_gqa", seed, f"{level}, positions={positions}", [5, 4])
    agree(Problem(model, graph, task, metric("logit_difference")), seed, share, 2)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6)
@given(
    seed=st.integers(0, 2**20),
    level=st.sampled_from(LEVELS[:4]),
    ablation=st.sampled_from(sorted(ABLATIONS)),
    share=st.sampled_from([0.03, 0.15, 0.6]),
)
def test_a_circuit_with_more_edges_is_the_masked_run_of_it(family, seed, level, ablation, share):
    model = tiny(family, dtype=torch.float64)
    graph = Graph.of(model.config, Scope.named(level))
    problem = random_problem(model, graph, seed, [6, 4, 5], 2, "logit_difference", ablation)
    kept = Circuit(graph, random_kept(graph.edges, seed, share)).prune().kept
    at = Batches.start(problem, 2).map(lambda engine: engine.restore(kept.clone(), 0))
    added = (graph.edges & ~kept).nonzero().tolist()
    joining = [edge for edge in added if at.first.joins(*edge)]
    # edges that join alone, several of them, and any edges at all
    for edges in [*([edge] for edge in joining[:: len(joining) // 3 + 1]), joining[::7], added[:: len(added) // 5 + 1]]:
        more = kept.clone()
        more[tuple(torch.tensor(edges, dtype=torch.long).view(-1, 2).T)] = True
        torch.testing.assert_close(grown(at, more).loss(), losses_of(problem, more), atol=1e-9, rtol=1e-9)


def agree(problem, seed, share, batch_size):
    """Trials of some edges of a random circuit equal masked runs, and so does the circuit."""
    graph = problem.graph
    kept = Circuit(graph, random_kept(graph.edges, seed, share)).to_logits()
    batches = Batches.start(problem, batch_size).map(lambda engine: engine.restore(kept.clone(), 0))
    torch.testing.assert_close(batches.loss(), losses_of(problem, kept), atol=1e-9, rtol=1e-9)
    columns = kept.any(0).nonzero().flatten().tolist()
    for column in columns[:: max(1, len(columns) // 6)]:
        writers = kept[:, column].nonzero().flatten().tolist()[:3]
        trials = batches.losses(lambda _, engine: engine.try_each(column, writers))  # noqa: B023
        for writer, found in zip(writers, trials, strict=True):
            without = kept.clone()
            without[writer, column] = False
            torch.testing.assert_close(found, losses_of(problem, without), atol=1e-9, rtol=1e-9)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**20), family=st.sampled_from(["gpt2", "llama_gqa", "gemma2"]), metric_name=st.sampled_from(METRICS))
def test_the_loss_is_the_one_that_is_defined(seed, family, metric_name):
    model = tiny(family, dtype=torch.float64)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, seed, [6, 4, 5], 2, metric_name, "resample")
    panel = Panel.of(problem, "both")
    for share in (0.1, 0.5):
        kept = Circuit(graph, random_kept(graph.edges, seed, share)).prune().kept
        assert float(panel.losses_of(kept).mean()) == pytest.approx(loss_by_hand(problem, kept), rel=1e-8)
    assert float(panel.losses_of(graph.edges).mean()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("family", ["gpt2", "pythia", "llama_gqa", "gemma2", "mixtral"])
def test_gains_are_the_slopes_of_the_loss(family):
    model = tiny(family, dtype=torch.float64)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 5, [6, 4], 1, "logit_difference", "resample")
    seed = Circuit(graph, random_kept(graph.edges, 2, 0.2))
    state = Refinement(problem, seed, Refine())
    kept, alpha, step = state.point.kept.double(), 0.3, 1e-5
    gain = state.growth.gain(state.point.kept, (alpha,), state.growth.at_circuit)
    mask = kept + alpha * (graph.edges.double() - kept)
    task = problem.task
    ablated = problem.ablation.values(model, graph, task.corrupted)
    bound = objective(problem.metric, state.search.units).bind(task.answers, task.answers.rows(model(task.clean)))

    def loss(mask):
        logits = task.answers.rows(run_circuit(model, graph, mask, task.clean, ablated))
        return float(task.answers.mean(bound(readout_of(logits, bound.needs))))

    cells = graph.edges.nonzero().tolist()
    for row, column in cells[:: len(cells) // 12]:
        up, down = mask.clone(), mask.clone()
        up[row, column] += step
        down[row, column] -= step
        slope = (loss(up) - loss(down)) / (2 * step)
        assert float(gain[row, column]) == pytest.approx(-slope, rel=1e-4, abs=1e-6)


# an edge whose writer carries nothing at first, and something after the next chain
@example(seed=20146, share=0.0, positions="each")
@settings(max_examples=20)
@given(seed=st.integers(0, 2**20), share=st.sampled_from([0.0, 0.02, 0.2]), positions=st.sampled_from(["all", "each"]))
def test_chains_join_the_circuit(seed, share, positions):
    _, graph, _ = drawn("llama_gqa", seed, f"qkv, positions={positions}", [4, 4])
    kept = Circuit(graph, random_kept(graph.edges, seed, share)).prune().kept
    gain = torch.randn(graph.edges.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wiring, taken = Wiring(graph), []
    for chain in chains(wiring, kept, gain):
        before = with_chains(kept, taken)
        joining = graph.edges & ~before
        for row, column in joining.nonzero().tolist():
            ready = column in wiring.heard(before) and (row, column % len(graph.positions)) in wiring.carrying(before)
            assert not ready or float(gain[chain[0]]) >= float(gain[row, column])
        taken.append(chain)
        grown = with_chains(kept, taken)
        # nothing that went in is on no path
        assert torch.equal(Circuit(graph, grown).prune().kept, grown)
        assert all(float(gain[cell]) > 0 for cell in chain)
        if len(taken) == 8:
            break
    assert taken


SEEDS = {
    "acdc": lambda problem: Acdc(0.5).search(problem).circuit,
    "random": lambda problem: Circuit(problem.graph, random_kept(problem.graph.edges, 7, 0.1)),
    "empty": lambda problem: Circuit.empty(problem.graph),
    "full": lambda problem: Circuit.full(problem.graph),
}


@pytest.mark.parametrize("start", SEEDS)
@pytest.mark.parametrize("name", ["or-gate", "and-gate", "tracr-reverse"])
def test_a_seed_ends_at_the_known_circuit_or_one_of_equal_loss(name, start):
    known = case(name, Resample())
    problem = case_problem(known)
    config = Refine(faithfulness=0.98, loss="faithfulness", price=1e-4)
    found = config.search(problem, seed=SEEDS[start](problem))
    panel = Panel.of(problem, "faithfulness")
    assert found.notes["target_reached"]
    assert found.circuit.n_edges <= known.circuit.n_edges
    assert float(panel.losses_of(found.circuit.kept).mean()) <= float(panel.losses_of(known.circuit.kept).mean()) + 1e-3


@pytest.mark.parametrize("start", ["random", "empty", "full"])
def test_a_refinement_that_dropped_an_arm_says_so(start):
    """Each arm of the gate does all that the other does; both arms of the AND are needed."""
    arms = [{f"embed->a0.h{head}<v>", f"a0.h{head}->m0"} for head in (0, 1)]
    problem = case_problem(case("or-gate", Resample()))
    config = Refine(faithfulness=0.98, loss="faithfulness", price=1e-4)
    found = refine_circuit(problem, SEEDS[start](problem), config)
    kept = next(arm for arm in arms if arm <= {*found.circuit.names})
    (warning,) = found.warnings
    shown, dropped = warning.split(" instead of ")
    assert all(edge in shown for edge in kept)
    assert all(edge in dropped for arm in arms if arm != kept for edge in arm)
    both = case_problem(case("and-gate", Resample()))
    assert not refine_circuit(both, SEEDS[start](both), config).warnings
