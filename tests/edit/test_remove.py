"""Capabilities that come out of models whose circuits are known, and what stays."""

from dataclasses import replace
from functools import cache
from itertools import combinations

import pytest
import torch

from subcircuit.edit import EdgeEdit, Means, Probe, Relearning, RemovalSearch, keep, nodes_of, remove
from subcircuit.edit.parts import EdgeParts, NodeParts
from subcircuit.edit.replacement import mean_values, mean_writes, optimal_writes
from subcircuit.edit.search import RemovalStep, find
from subcircuit.engine import Mean, Resample, run_circuit
from subcircuit.errors import EditError, GraphError, SettingsError
from subcircuit.graph import MLP, Circuit, Graph, Head, MethodRecord, ModelRecord, Neuron, Record, Scope, TaskRecord
from subcircuit.model import Transformer, load_model
from subcircuit.tasks import Task, metric
from subcircuit.truth.trained import that_matter, trained_induction, trained_ioi
from tests.planted import TRUE_EDGES, planted, planted_task
from tests.problems import random_task
from tests.tiny_models import tiny

SMALL = "tiny-induction-ioi"


@cache
def trained() -> tuple[Transformer, Circuit, Task, Task]:
    """The small trained model, its circuit of indirect objects, and prompts of both of its tasks."""
    model = load_model(SMALL, device="cpu")
    ioi = trained_ioi(model, 24)
    return model, that_matter(model, Graph.of(model.config), ioi, Resample()), ioi, trained_induction(model, 8)


@pytest.mark.slow
@pytest.mark.parametrize("means", [Means("node", "mean"), Means("node", "zero"), Means("edge", "mean")])
def test_indirect_objects_come_out_and_induction_stays(means: Means) -> None:
    model, circuit, ioi, induction = trained()
    steps: list[RemovalStep] = []
    done = remove(model, circuit, ioi, retain=[induction], means=means, settings=RemovalSearch(floor=0.8), on_step=steps.append)
    assert done.floor_held
    assert tuple(steps) == done.found.path
    assert set(done.edit.names) <= {str(part) for part in (nodes_of(circuit) if means.level == "node" else circuit.edges)}
    # on prompts that the search did not see
    others = [Probe.of(model, trained_ioi(model, 64, seed=1)), Probe.of(model, trained_induction(model, 16, seed=1))]
    with torch.no_grad():
        left, kept = (float(probe.share(done.edit.model.stream)) for probe in others)
    assert left < 0.2
    assert kept > 0.75


@pytest.mark.slow
def test_the_search_is_deterministic() -> None:
    model, circuit, ioi, induction = trained()
    first, second = (remove(model, circuit, ioi, retain=[induction], settings=RemovalSearch(target=0.02)) for _ in range(2))
    assert first.found.removed == second.found.removed
    assert [point.target for point in first.found.path] == [point.target for point in second.found.path]


def test_of_the_induction_heads_only_those_that_matter_are_removed() -> None:
    model = planted()
    circuit = Circuit.of_edges(Graph.of(model.config), TRUE_EDGES)
    assert nodes_of(circuit) == (Head(0, 1), Head(1, 2))
    done = remove(model, circuit, planted_task(model))
    # either of the two carries all of it: one is enough
    assert len(done.edit.names) == 1
    edges = remove(model, circuit, planted_task(model), means=Means("edge"))
    assert 1 <= len(edges.edit.names) <= 2


@pytest.mark.slow
def test_no_part_of_what_is_removed_can_be_put_back_and_no_smaller_set_does_it() -> None:
    """Against all subsets, one by one."""
    model, circuit, ioi, induction = trained()
    nodes = nodes_of(circuit)
    parts = NodeParts(model, nodes, mean_writes(model, nodes, [ioi.corrupted]))
    target, other = Probe.of(model, ioi), Probe.of(model, induction)

    def left(gone: tuple[int, ...]) -> tuple[float, float]:
        """The share of indirect objects, and the damage."""
        kept = torch.ones(len(nodes))
        kept[list(gone)] = 0
        with torch.no_grad():
            share, retained = (float(_share(probe, parts, kept)) for probe in (target, other))
        return share, max(0.0, 1 - retained) + max(0.0, -0.02 - share)

    found = find(parts, target, [other], RemovalSearch(target=0.02))
    share, damage = left(found.removed)
    assert share <= 0.02
    assert found.path[-1].target == pytest.approx(share, abs=1e-6)
    for part in found.removed if len(found.removed) > 1 else ():
        share, more = left(tuple(one for one in found.removed if one != part))
        assert share > 0.02 or more > damage
    sizes = (size for size in range(1, len(nodes) + 1) for gone in combinations(range(len(nodes)), size) if left(gone)[0] <= 0.02)
    assert len(found.removed) <= next(sizes) + 1


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_shares_of_parts_are_differentiable_in_each_part(family: str) -> None:
    """Nominations are gradients: they equal differences, at parts that are there and at parts that are gone."""
    model = tiny(family, dtype=torch.float64)
    task = random_task(model, 1, [6, 8, 5])
    nodes = (Head(0, 1), Head(2, 3), MLP(1))
    graph = Graph.of(model.config)
    circuit = Circuit.of_edges(graph, ["a0.h1->m1", "m1->logits", "embed->a1.h0<k>"])
    for parts in (
        NodeParts(model, nodes, mean_writes(model, nodes, [task.corrupted])),
        EdgeParts.of(model, circuit, mean_values(model, graph, [task.corrupted])),
    ):
        probe = Probe(model, task, metric("logit_difference"), 1.0)
        kept = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
        (slopes,) = torch.autograd.grad(_share(probe, parts, kept), kept)
        for part in range(3):
            moved = torch.zeros(3, dtype=torch.float64)
            moved[part] = 1e-5
            with torch.no_grad():
                up, down = (_share(probe, parts, kept.detach() + sign * moved) for sign in (1, -1))
            assert float(slopes[part]) == pytest.approx(float(up - down) / 2e-5, rel=1e-3, abs=1e-6)


def test_mean_writes_are_the_executors_means() -> None:
    """Without sandwich norms, and whatever the lengths of prompts."""
    for family in ("gpt2", "pythia", "llama_gqa"):
        model = tiny(family, dtype=torch.float64)
        graph, corrupted = Graph.of(model.config, Scope(level="head")), random_task(model, 3, [9, 4, 7]).corrupted
        expected = Mean().values(model, graph, corrupted)[:, 0, 0]
        nodes = tuple(node for node in graph.writers if isinstance(node, Head | MLP))
        torch.testing.assert_close(mean_writes(model, nodes, [corrupted[:1], corrupted[1:]]), expected[1:])
        torch.testing.assert_close(mean_values(model, graph, [corrupted[:2], corrupted[2:]]), expected)


@pytest.mark.slow
def test_cut_edges_carry_constants() -> None:
    model, circuit, ioi, _ = trained()
    edit, fill = keep(model, circuit, ioi, means=Means("edge"))
    assert isinstance(edit, EdgeEdit)
    assert fill == "mean"
    assert torch.equal(edit.model.circuit.kept, circuit.kept)
    assert len(edit.names) == circuit.graph.n_edges - circuit.n_edges
    ablated = Mean().values(model, circuit.graph, ioi.corrupted)
    expected = run_circuit(model, circuit.graph, circuit.kept, ioi.clean, ablated)
    torch.testing.assert_close(edit.model(ioi.clean), expected, atol=1e-4, rtol=1e-4)


def test_keeping_a_circuit_removes_every_other_node() -> None:
    model, circuit, ioi, induction = trained()
    edit, _ = keep(model, circuit, ioi)
    others = {*(f"a{layer}.h{head}" for layer in range(3) for head in range(4)), "m0", "m1", "m2"} - {
        str(n) for n in nodes_of(circuit)
    }
    assert set(edit.names) == others
    kept, lost = Probe.of(model, ioi), Probe.of(model, induction)
    with torch.no_grad():
        assert float(kept.share(edit.model.stream)) > 0.8
        assert float(lost.share(edit.model.stream)) < 0.3


def test_neurons_of_a_circuit_are_nodes_of_their_own() -> None:
    model, _, ioi, _ = trained()
    graph = Graph.of(model.config, Scope(level="head", overrides=(("m1", "neuron"),)))
    circuit = Circuit.of_edges(graph, ["embed->a1.h3", "a1.h3->m1.n4", "m1.n4->logits", "m1.n9->m2"])
    assert nodes_of(circuit) == (Head(1, 3), Neuron(1, 4), Neuron(1, 9), MLP(2))
    done = remove(model, circuit, ioi, settings=RemovalSearch(target=0.2))
    assert "a1.h3" in done.edit.names
    edit, _ = keep(model, circuit, ioi)
    assert "m1.n5" in edit.names
    assert not {"m1", "m1.n4", "m1.n9"} & set(edit.names)


@pytest.mark.slow
def test_learned_constants_cost_the_retained_tasks_less_than_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subcircuit.edit.replacement._STEPS", 30)
    model, _, ioi, induction = trained()
    nodes = (Head(0, 1), MLP(1))
    prompts = [induction[:2]]
    learned, mean = optimal_writes(model, nodes, prompts), mean_writes(model, nodes, [ioi.corrupted])
    shares = []
    for constants in (learned, mean):
        with torch.no_grad():
            run = NodeParts(model, nodes, constants)
            shares.append(float(Probe.of(model, induction[:2]).share(lambda t, run=run: run.stream(torch.zeros(2), t))))
    assert shares[0] > shares[1]


def test_what_cannot_be_done_is_refused() -> None:
    model, circuit, ioi, _ = trained()
    idle = Circuit.of_edges(circuit.graph, ["embed->a2.h0<v>", "embed->a2.h1<v>"])
    with pytest.raises(EditError, match=r"cannot be reached: with . of 2 parts .* --target \d\.\d\d"):
        remove(model, idle, ioi, settings=RemovalSearch(target=0.0))
    with pytest.raises(EditError, match="no head, MLP or edge"):
        remove(model, Circuit.empty(circuit.graph), ioi)
    with pytest.raises(GraphError, match="graphs differ in layers: 3 and 2"):
        remove(planted(), circuit, ioi)
    with pytest.raises(GraphError, match="digest"):
        remove(model, replace(circuit, record=_record("another")), ioi)
    with pytest.raises(SettingsError, match="metric kl_divergence does not measure"):
        remove(model, circuit, ioi, metric="kl_divergence")
    swapped = replace(ioi.answers, correct=ioi.answers.wrong, wrong=ioi.answers.correct)
    with pytest.raises(SettingsError, match="does not do"):
        remove(model, circuit, ioi, retain=[replace(ioi, answers=swapped)])
    with pytest.raises(EditError, match="every head"):
        keep(model, Circuit.full(circuit.graph), ioi)
    for wrong in (
        lambda: RemovalSearch(target=1.0),
        lambda: RemovalSearch(floor=1.1),
        lambda: RemovalSearch(weight=-1.0),
        lambda: RemovalSearch(width=0),
        lambda: Relearning(steps=-1),
        lambda: Relearning(learning_rate=0.0),
    ):
        with pytest.raises(SettingsError):
            wrong()


def _share(probe: Probe, parts: NodeParts | EdgeParts, kept: torch.Tensor) -> torch.Tensor:
    return probe.share(lambda tokens: parts.stream(kept, tokens))


def _record(config: str) -> Record:
    model = ModelRecord(name="x", revision=None, config=config, tokenizer=None, dtype="float32")
    task, method = TaskRecord(name="t", parameters={}, digest="d"), MethodRecord(name="eap", parameters={})
    return Record(
        model=model, task=task, method=method, ablation="zero", metric="logit_difference", results={}, versions={}, seed=0
    )
