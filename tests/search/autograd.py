"""The slow truth of gradient methods: autograd through the masked forward pass, where every reader has its own input.

The masked forward pass itself is held to the definition, node by node, by ``tests/engine/test_forward.py``.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from subcircuit.engine import run_circuit, writer_values
from subcircuit.engine.plain_run import embedding_values
from subcircuit.engine.readout import readout_of
from subcircuit.errors import NoGradientError
from subcircuit.model import Tokens, Transformer
from subcircuit.model.components import embed
from subcircuit.search import Problem
from subcircuit.tasks import with_positions


class Autograd:
    """A behaviour's mean loss as a function of a mask over edges."""

    def __init__(self, problem: Problem):
        model, graph = problem.model, problem.graph
        self.model, self.graph, self.task = model, graph, with_positions(graph, problem.task)
        self.ablated = problem.ablation.values(model, graph, self.task.corrupted)
        self.clean = writer_values(model, graph, self.task.clean)
        self.bound = problem.metric.bind(self.task.answers, self.task.answers.rows(model(self.task.clean)))

    def of_logits(self, logits: Tensor) -> Tensor:
        """The mean loss of logits at all positions."""
        rows = self.task.answers.rows(logits)
        return self.task.answers.mean(self.bound(readout_of(rows, self.bound.needs)))

    def loss(self, mask: Tensor) -> Tensor:
        """The mean loss of a circuit."""
        return self.of_logits(run_circuit(self.model, self.graph, mask, self.task.clean, self.ablated))

    def slope(self, mask: Tensor) -> Tensor:
        """How the loss grows as edges are cut, at a mask."""
        mask = mask.double().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(mask), mask)
        return -gradient

    def scores_at(self, embedding: Tensor) -> Tensor:
        """(ablated − clean) of each writer times the gradient in the run from another embedding: [batch pos d_model]."""
        model, tokens = of_embedding(self.model, embedding)
        # cut edges of this run move it by the differences of the clean run
        moved = writer_values(model, self.graph, tokens) + self.ablated - self.clean
        mask = self.graph.edges.double().requires_grad_()
        logits = run_circuit(model, self.graph, mask, tokens, moved)
        (gradient,) = torch.autograd.grad(self.of_logits(logits), mask)
        return -gradient

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Of the clean prompts, and what is ablated: [batch pos d_model] each."""
        writers = len(embedding_values(self.model, self.graph, self.task.clean))
        return embed(self.model.config, self.model.weights, self.task.clean.ids), self.ablated[:writers].sum(0)


def of_embedding(model: Transformer, embedding: Tensor) -> tuple[Transformer, Tokens]:
    """A model and prompts of its own tokens whose embedding is this one."""
    flat = embedding.flatten(0, 1)
    n_tokens = len(flat)
    flat = torch.cat([flat, flat.new_zeros(model.config.vocab - n_tokens, flat.shape[1])])
    ids = torch.arange(n_tokens).view(embedding.shape[:2])
    lengths = torch.full((len(ids),), ids.shape[1])
    W_pos = None if model.weights.W_pos is None else model.weights.W_pos * 0
    weights = replace(model.weights, W_E=flat, W_pos=W_pos)
    return replace(model, config=replace(model.config, embed_scale=1.0), weights=weights), Tokens(ids, lengths)


def assert_scores(scores, expected: Tensor, atol: float = 1e-8, rtol: float = 1e-6) -> None:
    """Scores equal the expected ones at every edge; float32 keeps seven digits."""
    edges = scores.graph.edges
    size = max(1.0, float(expected[edges].abs().max()))
    torch.testing.assert_close(scores.scores[edges].double(), expected[edges].double(), atol=atol * size, rtol=rtol)


def assert_scores_or_refused(search: Callable[[], Any], expected: Tensor, **tolerances: float) -> None:
    """Scores equal the oracle's; a search is refused only where these are zero everywhere."""
    try:
        scores = search()
    except NoGradientError:
        assert float(expected.nan_to_num().abs().max()) < 1e-9
    else:
        assert_scores(scores, expected, **tolerances)
