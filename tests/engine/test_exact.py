"""The exact engine equals a masked forward pass of every circuit it speaks of."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subcircuit.engine import ABLATIONS, run_circuit
from subcircuit.engine.readout import readout_of
from subcircuit.graph import Graph
from subcircuit.search.acdc_rules import cutting_order
from subcircuit.search.batches import Batches
from subcircuit.tasks import with_positions
from tests.engine.test_forward import scopes_of
from tests.problems import random_problem
from tests.tiny_models import FAMILIES, tiny


class Walk:
    """Visits readers as ACDC does, cutting at random, and compares every loss with the slow one."""

    def __init__(self, problem, batch_size, rng):
        model, graph = problem.model, problem.graph
        self.graph, self.rng = graph, rng
        order = cutting_order(graph, rng.choice(["descending", "ascending"]))
        self.batches = Batches.start(problem, batch_size, order)
        task = with_positions(graph, problem.task)
        ablated = problem.ablation.values(model, graph, task.corrupted)
        bound = problem.metric.bind(task.answers, task.answers.rows(model(task.clean)))

        def slow(kept):
            logits = task.answers.rows(run_circuit(model, graph, kept, task.clean, ablated))
            return task.answers.per_example(bound(readout_of(logits, bound.needs)))

        self.slow = slow

    def agree(self, fast, kept):
        # the slow run is nearly all of a walk's time
        if self.rng.random() < 0.6:
            return
        torch.testing.assert_close(fast, self.slow(kept), atol=1e-9, rtol=1e-9)

    def run(self):
        for unit in reversed(range(len(self.graph.units))):
            self.batches = self.batches.map(lambda engine: engine.open(unit))  # noqa: B023
            live = [r for r in self.graph.readers_in[unit] if self.batches.first.is_live(r)]
            if live:
                self.try_whole(live)
            for reader in live:
                self.visit(reader)

    def try_whole(self, live):
        readers = self.rng.sample(live, min(4, len(live)))
        groups = [readers[:1], readers[1:3], readers[3:]] if self.rng.random() < 0.5 else [[reader] for reader in readers]
        groups = [group for group in groups if group]
        losses = self.batches.try_readers(groups)
        kept = self.batches.kept.clone()
        for trial, group in enumerate(groups):
            kept[:, group] = False
            self.agree(losses[trial], kept)

    def visit(self, reader):
        visits, kept = self.batches.visit(reader), self.batches.kept.clone()
        order, keep_rate = self.batches.first.run.order, self.rng.choice([0.0, 0.2, 0.6])
        while left := visits[0].left:
            count = self.rng.randint(1, min(6, left))
            counts = range(1, count + 1) if self.rng.random() < 0.5 else sorted({self.rng.randint(1, count), count})
            losses = self.batches.try_edges(visits, counts)
            trial = kept.clone()
            trial[list(order[left - counts[-1] : left]), reader] = False
            self.agree(losses[-1], trial)
            if len(counts) > 1:
                before = kept.clone()
                before[list(order[left - counts[-2] : left]), reader] = False
                self.agree(losses[-2], before)
            cut = self.rng.randint(0, count - 1) if self.rng.random() < keep_rate else count
            visits = self.batches.decide(visits, cut, keep=cut < count)
            kept[list(order[left - cut : left]), reader] = False
        self.batches = self.batches.map(lambda engine: engine.commit(kept, [reader]))
        self.agree(self.batches.loss(), kept)
        if self.rng.random() < 0.1:
            unit = self.graph.unit_of[reader]
            restored = self.batches.map(lambda engine: engine.restore(kept, unit))
            self.agree(restored.loss(), kept)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4)
@given(
    data=st.data(),
    seed=st.integers(0, 2**20),
    ablation=st.sampled_from(sorted(ABLATIONS)),
    metric=st.sampled_from(["kl_divergence", "logit_difference", "negative_log_likelihood"]),
    lengths=st.lists(st.integers(4, 9), min_size=1, max_size=3),
    answers_each=st.integers(1, 3),
)
@torch.no_grad()
def test_engine_equals_masked_forward(family, data, seed, ablation, metric, lengths, answers_each):
    model = tiny(family, seed % 3, dtype=torch.float64)
    graph = Graph.of(model.config, data.draw(st.sampled_from(scopes_of(family))))
    problem = random_problem(model, graph, seed, lengths, answers_each, metric, ablation)
    Walk(problem, data.draw(st.integers(1, 3)), random.Random(seed)).run()
