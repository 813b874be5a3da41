"""A ranking of all neurons of a model, and the behaviour that remains with only some of them.

    score(n) = Σ (ablated(a_n) − clean(a_n)) · dL/da_n        a_n the neuron's activation; clean run, over positions, mean over examples

This is edge attribution patching (Syed et al. 2023, arXiv 2310.10348) at the level of nodes: to first order the sum of
the scores of all edges out of the neuron. Edges between neurons are not scored one by one: SmolLM2-135M has 1.1 billion
of them, and their contraction alone would cost more than fifty forward passes. So circuits at this level are selections
of neurons: an edge is kept exactly if both its ends are, which is a mask on activations and costs a plain forward pass.
All attention heads and the embedding stay. To search edges of neurons, resolve one MLP (``zoom``).

Cost: the clean and the ablated run, and one backward pass. Memory: activations of one layer, never a matrix of neurons.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.engine.ablation import Resample, Zero
from subcircuit.engine.gradients import streams_from
from subcircuit.engine.readout import readout_of
from subcircuit.entry import entry
from subcircuit.errors import GraphError, NumericalError, SettingsError
from subcircuit.graph import Graph, Neuron, Scope
from subcircuit.model.attention import attention
from subcircuit.model.components import embed, neurons, normalize, unembed
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer
from subcircuit.search.attribution import check_gradient_at_clean, check_not_all_zero, probes
from subcircuit.search.eap import Eap
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, ProgressCounter
from subcircuit.search.result import time_forward
from subcircuit.tasks import Task
from subcircuit.units.gradients import pull_back, widened
from subcircuit.units.mlp import mlp_weights

# keeps a layer's activations small
_EXAMPLES_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class NeuronScores:
    """A finite number for every neuron, and what it cost.

    Args:
        values: float32 on the processor; first-order estimates of how much the loss grows when the neuron is ablated.
        seconds: of the search, without loading.
        forward_seconds: one plain forward pass over the clean prompts, measured in the same run.
    """

    values: Float[Tensor, "layer d_mlp"]
    seconds: float
    forward_seconds: float

    def __repr__(self) -> str:
        neuron, score = self.largest(1)[0]
        return f"NeuronScores({self.values.numel():,} neurons, largest {neuron} {score:.4g}; {self.seconds:.1f} s)"

    @property
    def forward_equivalents(self) -> float:
        """Cost in units of one plain forward pass."""
        return self.seconds / self.forward_seconds

    def largest(self, n: int) -> list[tuple[Neuron, float]]:
        """The neurons of largest magnitude with their scores; ties in order of computation."""
        width = self.values.shape[1]
        flat = self.values.flatten()
        order = flat.abs().sort(descending=True, stable=True).indices[:n].tolist()
        return [(Neuron(index // width, index % width), float(flat[index])) for index in order]

    def keep(self, n: int) -> Bool[Tensor, "layer d_mlp"]:
        """A mask of the ``n`` neurons of largest magnitude."""
        kept = torch.zeros(self.values.shape, dtype=torch.bool)
        for neuron, _ in self.largest(n):
            kept[neuron.layer, neuron.neuron] = True
        return kept


@entry
def neuron_scores(problem: Problem, config: Eap, on_step: OnProgress | None = None) -> NeuronScores:
    """A score for every neuron of every MLP.

    Args:
        problem: prompts, metric, and resample or zero ablation.
        config: examples at once.
        on_step: called after every batch of examples.

    Raises:
        GraphError: the model has no MLPs, or mixtures of experts.
        SettingsError: the metric has no gradients, or another ablation.
        NumericalError: a score is NaN or infinite; names the neuron.
    """
    model = problem.model
    _check(problem)
    check_gradient_at_clean(problem, methods=False)
    before = time_forward(problem)
    began = perf_counter()
    graph, rounds = Graph.of(model.config, Scope("block")), ProgressCounter(len(problem.task), on_step, phase="neurons")
    values = torch.zeros(model.config.n_layers, model.config.d_mlp, dtype=torch.float64)
    done = 0
    for probe in probes(replace(problem, graph=graph), config.batch_size or _EXAMPLES_AT_ONCE):
        part, run = problem.task[done : done + len(probe)], probe.contrast
        other = None if isinstance(problem.ablation, Zero) else _streams(model, graph, part.corrupted.until(run.rows.n_pos))
        for gradient in probe.gradients(run.streams):
            unit = graph.unit_of[gradient.readers[0]]
            node = graph.units[unit]
            if node.kind == "mlp":
                clean = _activations(model, node.layer, run.streams[unit])
                change = -clean if other is None else _activations(model, node.layer, other[unit]) - clean
                at = pull_back(lambda a, layer=node.layer: _write(model, layer, a), (clean,), gradient.written)[0]
                values[node.layer] += (widened(change) * widened(at)).sum((0, 1)).double().cpu()
        done += len(probe)
        rounds.done(len(probe))
    seconds = perf_counter() - began
    _check_finite(values)
    check_not_all_zero(problem, values, methods=False)
    return NeuronScores(values.float(), seconds, median(before + time_forward(problem)))


@entry
@torch.no_grad()
def loss_with_neurons(
    problem: Problem, kept: Bool[Tensor, "layer d_mlp"], done: Callable[[int], None] = lambda runs: None
) -> float:
    """The metric's mean over examples if only these neurons write their values and all others are ablated.

    Args:
        kept: the neurons.
        done: called with the number of prompts that have run.

    Raises:
        GraphError, SettingsError: as ``neuron_scores``.
    """
    model = problem.model
    _check(problem)
    losses = []
    for part in _parts(problem.task):
        reference = part.answers.rows(model(part.clean)) if problem.metric.compares else None
        bound = problem.metric.bind(part.answers, reference)
        last = _masked(model, part, kept.to(model.device), isinstance(problem.ablation, Zero))
        logits = unembed(model.config, model.weights, part.answers.rows(last))
        losses.append(part.answers.per_example(bound(readout_of(logits, bound.needs))))
        done(len(part))
    return problem.metric.mean(torch.cat(losses))


def _masked(model: Transformer, part: Task, kept: Bool[Tensor, "layer d_mlp"], zero: bool) -> Float[Tensor, "batch pos d_model"]:
    """The last stream of a masked run; the ablated run is computed in parallel, so that no layer's activations are stored."""
    stream, other = (embed(model.config, model.weights, tokens.ids) for tokens in (part.clean, part.corrupted))
    for layer in range(model.config.n_layers):
        attended, other_attended = (x + attention(model, layer, x) for x in (stream, other))
        read, other_read = (stream, other) if model.config.parallel else (attended, other_attended)
        carried = _activations(model, layer, other_read)
        fired = torch.where(kept[layer], _activations(model, layer, read), torch.zeros_like(carried) if zero else carried)
        stream, other = attended + _write(model, layer, fired), other_attended + _write(model, layer, carried)
    return stream


def _parts(task: Task) -> Iterator[Task]:
    for begin in range(0, len(task), _EXAMPLES_AT_ONCE):
        yield task[begin : begin + _EXAMPLES_AT_ONCE]


def _streams(model: Transformer, graph: Graph, tokens: Tokens) -> tuple[Float[Tensor, "batch pos d_model"], ...]:
    return streams_from(model, graph, embed(model.config, model.weights, tokens.ids))


@torch.no_grad()
def _activations(model: Transformer, layer: int, stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_mlp"]:
    weights, norm = mlp_weights(model, layer)
    return neurons(model.config, weights, normalize(stream, model.config.norm, norm))


def _write(model: Transformer, layer: int, activations: Float[Tensor, "batch pos d_mlp"]) -> Float[Tensor, "batch pos d_model"]:
    weights, _ = mlp_weights(model, layer)
    written = activations @ weights.W_out
    written = written if weights.b_out is None else written + weights.b_out
    post = model.weights.layers[layer].mlp_post_norm
    return written if post is None else normalize(written, model.config.norm, post)


def _check(problem: Problem) -> None:
    model = problem.model
    if not model.config.d_mlp or model.config.experts is not None:
        what = "no MLPs" if not model.config.d_mlp else "mixtures of experts, whose neurons have no level of their own"
        raise GraphError(f"{model.name} has {what}: neurons cannot be ranked.")
    if not isinstance(problem.ablation, Resample | Zero):
        raise SettingsError("neurons can be ranked under resample or zero ablation: choose one of them.")


def _check_finite(values: Float[Tensor, "layer d_mlp"]) -> None:
    bad = (~values.isfinite()).nonzero().tolist()
    if bad:
        layer, neuron = bad[0]
        raise NumericalError(
            f"the score of {Neuron(layer, neuron)} is {float(values[layer, neuron])}: the neurons cannot be ranked. Use float32, and check "
            "the model's weights for NaN."
        )
