"""The trained model does its tasks, its reference is what slow masked passes show, and searches find most of it."""

from dataclasses import replace
from functools import cache
from random import Random

import pytest
import torch
from torch import Tensor

from scripts.train_small import save, train
from subcircuit.engine import ABLATIONS, Resample
from subcircuit.engine.gradients import streams_from
from subcircuit.errors import UnknownNameError
from subcircuit.evaluate import overlap, recovery
from subcircuit.evaluate.validation import case_problem
from subcircuit.graph import Graph
from subcircuit.model import Tokens, Transformer, load_model
from subcircuit.model.attention import pattern, project
from subcircuit.model.components import embed
from subcircuit.search import Acdc, EapIgInputs, Exact
from subcircuit.tasks import Task
from subcircuit.truth import TRAINED, Case, case, trained_case
from subcircuit.truth.trained import CONTEXT, MODEL, SHARE, giving, that_matter
from tests.oracles import NodeByNode, ablated_slowly
from tests.search.autograd import Autograd

NAMES = pytest.mark.parametrize("name", list(TRAINED))
ONE_OF_EACH = pytest.mark.parametrize(("name", "ablation"), [("trained-induction", "zero"), ("trained-ioi", "resample")])
PROBED = pytest.mark.parametrize("ablation", ["resample", "zero"])


class Cutting:
    """Minus logit difference of the circuits of a case, in float64, by masked runs of whole circuits."""

    def __init__(self, one: Case):
        self.slow = Autograd(replace(case_problem(one), model=one.model.to(dtype=torch.float64)))
        self.edges = one.graph.edges
        self.whole = self.loss(self.edges)
        self.lost = self.loss(torch.zeros_like(self.edges)) - self.whole

    @torch.no_grad()
    def loss(self, kept: Tensor) -> float:
        return float(self.slow.loss(kept))

    def effect(self, writer: int, reader: int) -> float:
        kept = self.edges.clone()
        kept[writer, reader] = False
        return self.loss(kept) - self.whole


@pytest.fixture(scope="module")
def made():
    """From a name and an ablation's to the case, made once."""

    @cache
    def of(name: str, ablation: str) -> Case:
        return case(name, ABLATIONS[ablation])

    return of


@pytest.fixture(scope="module")
def cutting(made):
    """From the same to the circuits of the case."""

    @cache
    def of(name: str, ablation: str) -> Cutting:
        return Cutting(made(name, ablation))

    return of


@torch.no_grad()
def share_right(model: Transformer, task: Task) -> float:
    """How often the right answer is the likeliest of all tokens."""
    chosen = task.answers.rows(model(task.clean)).argmax(-1)
    return float((chosen == task.answers.correct[:, 0]).double().mean())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@NAMES
def test_the_model_does_its_tasks_on_prompts_it_has_not_seen(name, dtype):
    model = load_model(MODEL, dtype=dtype)
    for seed in (101, 102):
        assert share_right(model, TRAINED[name].make(model, examples=128, seed=seed)) >= 0.99


def test_indirect_objects_are_named_once_and_givers_twice():
    for seed in range(20):
        one = giving(Random(seed))
        assert (one.clean.count(one.right), one.clean.count(one.wrong)) == (1, 2)
        assert len(one.clean) == len(one.corrupted)
        differ = [place for place, (a, b) in enumerate(zip(one.clean, one.corrupted, strict=True)) if a != b]
        names = [one.corrupted[place] for place in differ]
        assert len({*names, one.right, one.wrong}) == 5


@torch.no_grad()
def attention(model: Transformer, tokens: Tokens) -> Tensor:
    """Every pattern: [layer head batch query key]."""
    places, heads, patterns, graph = (
        torch.arange(tokens.ids.shape[1]),
        tuple(range(model.config.n_heads)),
        [],
        Graph.of(model.config),
    )
    streams = streams_from(model, graph, embed(model.config, model.weights, tokens.ids))
    for layer in range(model.config.n_layers):
        stream = streams[graph.unit_index[f"a{layer}"]]
        q, k = (project(model, layer, part, stream[None], places, heads) for part in ("q", "k"))
        patterns.append(pattern(model, layer, q, k))
    return torch.stack(patterns)


def test_a_head_attends_to_what_followed_the_first_time_and_an_earlier_one_to_the_previous_token():
    model = load_model(MODEL)
    task = TRAINED["trained-induction"].make(model, examples=32, seed=101)
    n_pos = task.clean.ids.shape[1]
    patterns, second = attention(model, task.clean).mean(2), torch.arange(n_pos // 2 + 1, n_pos)
    followed = patterns[:, :, second, second - n_pos // 2].mean(-1)
    assert float(followed.max()) > 0.5
    everywhere = torch.arange(1, n_pos)
    previous = patterns[:, :, everywhere, everywhere - 1].mean(-1).amax(1)
    layer = int(followed.amax(1).argmax())
    assert float(previous[:layer].max()) > 0.5


@pytest.mark.slow
@ONE_OF_EACH
def test_the_reference_is_what_masked_runs_of_edges_drawn_at_random_show(made, cutting, name, ablation):
    one, cuts, draw = made(name, ablation), cutting(name, ablation), torch.Generator().manual_seed(0)
    for cells in ((one.graph.edges & wanted).nonzero() for wanted in (one.circuit.kept, ~one.circuit.kept)):
        for writer, reader in cells[torch.randperm(len(cells), generator=draw)[:4]].tolist():
            matters = cuts.effect(writer, reader) >= SHARE * cuts.lost
            assert matters == bool(one.circuit.kept[writer, reader])


@pytest.mark.slow
@ONE_OF_EACH
def test_the_reference_is_what_running_node_by_node_shows(made, name, ablation):
    whole_case = made(name, ablation)
    task, model, graph = whole_case.task[:1], whole_case.model.to(dtype=torch.float64), whole_case.graph
    found = that_matter(model, graph, task, whole_case.ablation).kept
    (ablated,), (prompt,) = ablated_slowly(model, graph, task.corrupted, whole_case.ablation), task.clean.to_lists()
    pos, right, wrong = task.answers.pos, task.answers.correct[:, 0], task.answers.wrong[:, 0]

    def loss(kept: Tensor) -> float:
        _, logits = NodeByNode(model, graph, kept, ablated).run(prompt)
        return float((logits[pos, wrong] - logits[pos, right]).mean())

    whole = loss(graph.edges)
    least, draw = SHARE * (loss(torch.zeros_like(found)) - whole), torch.Generator().manual_seed(1)
    for cells in ((graph.edges & wanted).nonzero() for wanted in (found, ~found)):
        for writer, reader in cells[torch.randperm(len(cells), generator=draw)[:2]].tolist():
            kept = graph.edges.clone()
            kept[writer, reader] = False
            assert (loss(kept) - whole >= least) == bool(found[writer, reader])


@pytest.mark.slow
@PROBED
@NAMES
def test_exact_effects_rank_the_reference_first(made, name, ablation):
    one = made(name, ablation)
    effects = Exact().search(case_problem(one)).scores
    assert recovery(one.circuit, effects).roc.auc > 0.999


@pytest.mark.slow
@PROBED
@NAMES
def test_searches_find_most_of_the_reference(made, cutting, name, ablation):
    one = made(name, ablation)
    scores = EapIgInputs().search(case_problem(one))
    assert recovery(one.circuit, scores.scores).roc.auc > 0.8
    searched = Acdc(SHARE * cutting(name, ablation).lost).search(case_problem(one))
    found = overlap(one.circuit, searched.circuit)
    assert found.recall > 0.6
    assert found.fpr < 0.15


@pytest.mark.slow
def test_the_case_says_that_its_truth_is_by_effect(made):
    for name, listing in TRAINED.items():
        one = made(name, "resample")
        assert (one.name, one.description, one.model.name) == (name, listing.description, MODEL)
        assert "exact effect of every single edge: at least 2%" in one.source
        assert not one.redundant
        assert one.task.metric == "logit_difference"
    with pytest.raises(UnknownNameError, match="Did you mean 'trained-ioi'"):
        trained_case("trained-oi", Resample())


@pytest.mark.slow
def test_training_is_what_its_seed_says_and_makes_such_a_checkpoint(tmp_path):
    losses: list[tuple[float, float]] = []
    first, again, other = (train(2, seed, lambda _, *pair: losses.append(pair)) for seed in (0, 0, 1))
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), again.parameters(), strict=True))
    assert losses[:2] == losses[2:4] != losses[4:]
    save(first, tmp_path / "model")
    loaded, tokens = load_model(tmp_path / "model"), torch.arange(2 * CONTEXT).view(2, CONTEXT)
    with torch.no_grad():
        torch.testing.assert_close(loaded(Tokens.from_lists(tokens.tolist())), first(tokens).logits, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(other(tokens).logits, first(tokens).logits, atol=0.01)
    assert loaded.config == load_model(MODEL).config
