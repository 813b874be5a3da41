"""AtP*: attribution patching with softmax recomputed and layers dropped (Kramár et al. 2024, arXiv 2403.00745), for edges.

The method corrects two errors of first-order scores.

QK fix: behind a saturated softmax the gradient of queries and keys is nearly zero, even where the pattern would change much.
An edge into a query or key moves the reader's input by Δ = ablated(w) − clean(w) at all positions. The norm, the projection
and the softmax are computed again, and only the model after the pattern A is linearised:

    effect(w → q) = Σ (A(x_q + Δ, x_k) − A(x_q, x_k)) · dL/dA        and likewise for k        [clean run]

Where a reader feeds queries and keys at once (levels ``head`` and ``block``), both move together. Edges into values, MLPs
and the logits keep the first-order effect Δ · dL/d input, which for values is added to that of the pattern.

GradDrop: a node's direct and indirect effects may cancel and leave only noise. If layer ℓ writes constants in the backward
pass, ∂ℓ L, a part of the indirect effect is missing:

    score(w → r) = mean over examples of mean over layers ℓ of |effect with ∂ℓ L|

ℓ runs over all layers except the reader's own, because every path of the edge passes through that layer (so the paper divides
by L − 1). Scores are sizes per example, as in the paper: an edge that hurts counts as much as one that helps, and examples do
not cancel. Without ``grad_drop`` scores are signed mean effects, comparable with ``exact``.

Cost, in forward-equivalents: the clean and the ablated run; 3 to 6 for every backward pass, of which GradDrop takes one
a layer; and for the QK fix a sixth of a layer for every writer and later layer. Measured at 8 layers of 8 heads: 25
without GradDrop, 65 with it, where ``eap`` took 10.
Memory: with GradDrop about four times that of ``eap``. Fails where what follows the pattern bends, and where a
query and a key matter only together; blind at the minimum of a divergence, like all gradients of the clean run.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.gradients import UnitGradient, reader_gradients
from subcircuit.graph import Graph
from subcircuit.model.attention import PARTS, pattern, project, shares
from subcircuit.search.attribution import GradientProbe, Watch, check_gradient_at_clean, summed
from subcircuit.search.journal import Journal
from subcircuit.search.method import FIRST_ORDER, ScoringMethod
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, ProgressCounter
from subcircuit.search.result import check_together
from subcircuit.units import Unit
from subcircuit.units.gradients import Rules, pull_back, widened
from subcircuit.units.nodes import HeadPart

# patterns of many writers are the largest tensors of this method
_NUMBERS_AT_ONCE = 2**24


@dataclass(frozen=True)
class AtpStar(ScoringMethod):
    """Settings of AtP*.

    Args:
        grad_drop: average effect sizes over backward passes that each omit a layer; if False, scores are signed.
        batch_size: examples at once; None chooses by memory. The result is the same.
    """

    name = "atp-star"
    description = "softmax recomputed, layers dropped (Kramár et al. 2024)"
    meaning = FIRST_ORDER

    grad_drop: bool = True
    batch_size: int | None = None

    def check(self, problem: Problem) -> None:
        """Raise the errors that ``search`` would raise for this problem."""
        check_together(problem.graph, self.name)
        check_gradient_at_clean(problem)

    @torch.no_grad()
    def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        """Effects, or their mean sizes over backward passes."""
        graph = problem.graph

        def share(probe: GradientProbe, rounds: ProgressCounter) -> Float[Tensor, "writer reader"]:
            scores = torch.zeros(graph.edges.shape, dtype=torch.float64)
            for unit, gradients in _backwards(probe, self.grad_drop):
                effects = _effects(probe, unit, gradients)
                if self.grad_drop:
                    effects = effects[_others(graph, unit, len(effects))].abs()
                scores[: effects.shape[1], list(graph.readers_in[unit])] += effects.mean(0).sum(-1).cpu()
            rounds.done(len(probe))
            return scores

        return summed(problem, self.batch_size, share, Watch(self, 1, progress, journal))


def _backwards(probe: GradientProbe, grad_drop: bool) -> Iterator[tuple[int, tuple[UnitGradient, ...]]]:
    """Each unit, from the logits backwards, with its gradients in every backward pass, separately per head input."""
    model, graph, streams = probe.contrast.model, probe.contrast.graph, probe.contrast.streams
    # a model with one layer has no other layer to drop
    drops = range(model.config.n_layers) if grad_drop and model.config.n_layers > 1 else (None,)
    apart, at_logits = graph.apart, probe.at_logits(streams)
    passes = (reader_gradients(model, apart, streams, at_logits, Rules(dropped=drop)) for drop in drops)
    for number, gradients in enumerate(zip(*passes, strict=True)):
        yield len(graph.units) - 1 - number, gradients


def _others(graph: Graph, unit: int, drops: int) -> list[int]:
    """The backward passes that reach a unit: all except the one that drops its own layer."""
    node = graph.units[unit]
    return [drop for drop in range(drops) if drops == 1 or drop != node.layer]


def _effects(probe: GradientProbe, unit: int, gradients: tuple[UnitGradient, ...]) -> Float[Tensor, "drop writer reader batch"]:
    """Each example's part of the mean effect of cutting each edge into a unit, per backward pass."""
    graph = probe.contrast.graph
    node = graph.units[unit]
    if not node.inputs:
        return _first_order(probe, unit, torch.stack([g.at_readers for g in gradients]))
    layer = node.layer
    at_inputs = torch.stack([g.at_readers for g in gradients])
    at_values = at_inputs.new_zeros(len(gradients), len(graph.readers_in[unit]), *at_inputs.shape[2:])
    for reader, of_head in zip(node.inputs["v"], node.apart.inputs["v"], strict=True):
        at_values[:, reader] += at_inputs[:, of_head]
    effects = _first_order(probe, unit, at_values)
    at_pattern = _pattern_gradients(probe, unit, layer, gradients)
    for writers, part, by_head in _recomputed(probe, unit, node, at_pattern):
        for head, reader in enumerate(node.inputs[part]):
            effects[:, writers, reader] += by_head[:, :, head]
    return effects


def _first_order(
    probe: GradientProbe, unit: int, at_readers: Float[Tensor, "drop reader batch pos d_model"]
) -> Float[Tensor, "drop writer reader batch"]:
    """(ablated − clean) · gradient of each example."""
    contrast = probe.contrast
    at_rows = contrast.at_rows(at_readers.flatten(0, 1))
    rows = torch.bincount(contrast.rows.changed.flat // contrast.rows.n_pos).tolist()
    differences = contrast.differences[: contrast.read_by(contrast.graph.readers_in[unit])]
    per_example = [
        (gradient.flatten(1) @ difference.flatten(1).T).double()
        for gradient, difference in zip(at_rows.split(rows, 1), differences.split(rows, 1), strict=True)
    ]
    return torch.stack(per_example, -1).unflatten(0, at_readers.shape[:2]).transpose(1, 2)


def _heads(probe: GradientProbe, unit: int, layer: int, part: HeadPart, x: Tensor | None = None) -> Tensor:
    """Queries, keys or values of all heads, from the clean run's input or from others: [head *rows pos d_head]."""
    model, stream = probe.contrast.model, probe.contrast.streams[unit]
    positions = torch.arange(stream.shape[1], device=stream.device)
    return project(model, layer, part, (stream if x is None else x)[None], positions, tuple(range(model.config.n_heads)))


def _pattern_gradients(
    probe: GradientProbe, unit: int, layer: int, gradients: tuple[UnitGradient, ...]
) -> Float[Tensor, "drop head batch query key"]:
    """Gradients of the loss with respect to a layer's attention pattern in the clean run."""
    model = probe.contrast.model
    q, k, v = (_heads(probe, unit, layer, part) for part in PARTS)
    clean = pattern(model, layer, q, k)
    written = [pull_back(lambda a: shares(model, layer, a @ v).sum(0), (clean,), g.written)[0] for g in gradients]
    return widened(torch.stack(written))


def _recomputed(
    probe: GradientProbe, unit: int, node: Unit, at_pattern: Float[Tensor, "drop head batch query key"]
) -> Iterator[tuple[slice, HeadPart, Float[Tensor, "drop writer head batch"]]]:
    """The change of each head's pattern times its gradient when edges are cut, for some writers at a time, and for q or k.

    Where a reader feeds both, q stands for both.
    """
    contrast, model, layer = probe.contrast, probe.contrast.model, node.layer
    q, k = (_heads(probe, unit, layer, part)[:, None] for part in ("q", "k"))
    clean = pattern(model, layer, q, k)
    n_writers = contrast.read_by(contrast.graph.readers_in[unit])
    shared = [query == key for query, key in zip(node.inputs["q"], node.inputs["k"], strict=True)]
    together = torch.tensor(shared, device=q.device).view(-1, *[1] * (q.ndim - 1))
    size = max(1, _NUMBERS_AT_ONCE // max(clean.numel(), q.numel()))
    for begin in range(0, n_writers, size):
        writers = slice(begin, min(begin + size, n_writers))
        moved = contrast.streams[unit] + contrast.at_positions(contrast.differences[writers])
        q_moved, k_moved = (_heads(probe, unit, layer, part, moved.to(model.dtype)) for part in ("q", "k"))
        cuts: list[tuple[HeadPart, Tensor, Tensor]] = [("q", q_moved, k_moved.where(together, k))]
        if not all(shared):
            cuts.append(("k", q, k.where(together, k_moved)))
        for part, queries, keys in cuts:
            change = widened(pattern(model, layer, queries, keys)) - widened(clean)
            yield writers, part, torch.einsum("hwbqk,dhbqk->dwhb", change, at_pattern).double()
