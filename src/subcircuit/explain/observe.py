"""Observation of a model on a task: attention of all heads, values and effects of all writers, and their outputs as tokens.

Effects are first order, with gradients averaged on the way from the corrupted to the clean embedding (EAP-IG, Hanna et al.
2024, arXiv 2403.17806), because behind a saturated softmax the gradient of the clean run alone is zero:

    effect(w, p) = (clean(w) − corrupted(w)) · mean dD/d w        at position p: how much of D is lost when w is corrupted there
    effect(w → r) = Σ_p (clean(w) − corrupted(w)) · mean dD/d input(r)

D is the mean over examples of u · final norm(x) with u = mean W_U[correct] − mean W_U[wrong], or minus the mean of all
tokens where a task has no wrong answers. Heads are taken apart into q, k, v whatever the circuit's scope. Cost: seven forward
passes and five backward. Memory: every writer's value twice, writers × prompts × positions × d_model.

A component's output is shown as tokens: its mean output goes through the final norm and the unembedding. Neurons are shown with
the tokens on which they fire. The final norm's scale is frozen at its value in the model's run, so that the logits are linear in
the output (nostalgebraist 2020, "interpreting GPT: the logit lens"). Logits are compared with their mean over the vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.engine.gradients import Streams, UnitGradient, reader_gradients, streams_from
from subcircuit.engine.plain_run import attention_patterns, embedding_values, writer_values
from subcircuit.entry import entry
from subcircuit.errors import SettingsError
from subcircuit.graph import Graph, Node
from subcircuit.model.components import mlp, neurons, normalize
from subcircuit.model.config import LayerNorm, NoNorm, RMSNorm
from subcircuit.model.transformer import Transformer
from subcircuit.model.weights import MLPWeights
from subcircuit.search.progress import ProgressCounter
from subcircuit.tasks import Answers, Roles, Task, check_vocabulary
from subcircuit.tasks.roles import with_ends
from subcircuit.units.gradients import norm_pull_back

_MOST_NUMBERS = 2**29
STEPS = 5
"""Runs between corrupted and clean embedding at which gradients are taken."""


@dataclass(frozen=True, eq=False)
class Observation:
    """A model on a task's prompts.

    Args:
        graph: heads with queries, keys and values apart.
        roles: the task's, or START and END alone.
        patterns: attention of each layer on the clean prompts.
        streams: what the graph's units read on the clean prompts, and on the corrupted ones.
        values: what writers add on the clean prompts.
        moved: how far corruption moves each writer's value.
        node_effects: see above.
        edge_effects: see above; 0 where there is no edge.
        at_mlps: dD/d what each layer's MLP writes.
    """

    model: Transformer
    graph: Graph
    task: Task
    roles: Roles
    patterns: tuple[Float[Tensor, "head batch query key"], ...]
    streams: tuple[Streams, Streams]
    values: Float[Tensor, "writer batch pos d_model"]
    moved: Float[Tensor, "writer batch pos"]
    node_effects: Float[Tensor, "writer batch pos"]
    edge_effects: Float[Tensor, "writer reader"]
    at_mlps: dict[int, Float[Tensor, "batch pos d_model"]]

    @cached_property
    def direct(self) -> Float[Tensor, " writer"]:
        """Direct logit attribution: what each writer adds to D itself, with the final norm's scale frozen where it is.

        Together with the biases these sum to D (Elhage et al. 2021, "A mathematical framework for transformer circuits").
        """
        answers = self.task.answers
        return answers.mean(torch.linalg.vecdot(answers.rows(self.values), at_answers(self)))

    @cached_property
    def difference(self) -> float:
        """D itself, without soft caps and the unembedding's bias."""
        answers, bias = self.task.answers, self.model.weights.final_norm.bias
        constant = 0.0 if bias is None else directions(self.model, answers) @ bias
        return float(answers.mean(torch.linalg.vecdot(answers.rows(self.streams[0][-1]), at_answers(self)) + constant))

    def rows(self, role: str) -> Float[Tensor, "batch pos"]:
        """A mask: 1 at the positions of a role within prompts, else 0."""
        within = torch.arange(self.task.clean.ids.shape[1], device=self.model.device) < self.task.clean.lengths[:, None]
        return (self.roles.mask(role) & within).float()


@entry
@torch.no_grad()
def observe(
    model: Transformer, task: Task, like: Graph | None = None, steps: int = STEPS, rounds: ProgressCounter | None = None
) -> Observation:
    """Run a model on a task's clean and corrupted prompts.

    Args:
        task: on the model's device.
        like: embeddings and neurons are apart where they are in this graph.
        steps: runs between corrupted and clean embedding at which gradients are taken.
        rounds: told of the gradients of each unit in each of these runs.

    Raises:
        PromptError: prompts of unequal lengths in a model that is not causal, or made for a model with another tokenizer.
        SettingsError: all writers' values would not fit in memory.
    """
    check_vocabulary(model, task)
    graph = Graph.of(model.config) if like is None else like.apart
    _check_size(graph, task, model)
    streams = tuple(
        streams_from(model, graph, embedding_values(model, graph, tokens).sum(0)) for tokens in (task.clean, task.corrupted)
    )
    values = writer_values(model, graph, task.clean)
    differences = values - writer_values(model, graph, task.corrupted)
    n_embeddings = len(graph.embeddings)
    moved, shares = differences.norm(dim=-1), differences / steps
    node_effects, edge_effects = differences.new_zeros(differences.shape[:3]), torch.zeros(graph.edges.shape)
    at_mlps = {layer: torch.zeros_like(values[0]) for layer in range(model.config.n_layers) if model.config.d_mlp}
    for step in range(steps):
        begun = torch.lerp(streams[1][0], streams[0][0], (step + 0.5) / steps)
        for unit, gradient in _gradients(model, graph, task.answers, streams_from(model, graph, begun)):
            readers, writers, node = list(graph.readers_in[unit]), list(graph.writers_in[unit]), graph.units[unit]
            earlier = graph.edges[:, readers[0]].nonzero().flatten()
            at_readers, written = gradient.at_readers.to(values.dtype), gradient.written.to(values.dtype)
            edge_effects[earlier[:, None], torch.tensor(readers)] += (
                (shares[earlier].flatten(1) @ at_readers.flatten(1).T).float().cpu()
            )
            node_effects[writers] += torch.linalg.vecdot(shares[writers], written)
            # every reader reads the embedding
            node_effects[:n_embeddings] += torch.linalg.vecdot(shares[:n_embeddings], at_readers.sum(0))
            if node.kind == "mlp":
                at_mlps[node.layer] += written / steps
            if rounds is not None:
                rounds.done(1)
    patterns, roles = tuple(attention_patterns(model, task.clean)), task.roles or _ends_alone(task)
    return Observation(
        model, graph, task, roles, patterns, (streams[0], streams[1]), values, moved, node_effects, edge_effects, at_mlps
    )


def _check_size(graph: Graph, task: Task, model: Transformer) -> None:
    numbers = len(graph.writers) * task.clean.ids.numel() * model.config.d_model
    if numbers > _MOST_NUMBERS:
        raise SettingsError(
            f"the values of {len(graph.writers):,} writers on {len(task)} pairs of prompts take {numbers * 4 / 2**30:.1f} GiB, more than the "
            f"limit of {_MOST_NUMBERS * 4 / 2**30:.0f} GiB: use fewer examples, or a circuit with fewer MLPs at level neuron."
        )


def at_answers(observed: Observation) -> Float[Tensor, "answer d_model"]:
    """The direction whose product with a share of the last stream is its part of D, at each answer: u through the frozen norm."""
    model, answers = observed.model, observed.task.answers
    return _through_final_norm(model, answers.rows(observed.streams[0][-1]), directions(model, answers), frozen=True)


def directions(model: Transformer, answers: Answers) -> Float[Tensor, "answer d_model"]:
    """u of every answer: the unembedding's mean row of right tokens minus the mean row of wrong ones, or of all tokens."""
    W_U = model.weights.W_U
    right = _mean_row(W_U, answers.correct, answers.correct_mask)
    none = ~answers.wrong_mask.any(1)
    wrong = torch.where(none[:, None], W_U.mean(0), _mean_row(W_U, answers.wrong, answers.wrong_mask))
    return right - wrong


def _mean_row(W_U: Tensor, ids: Tensor, mask: Tensor) -> Float[Tensor, "answer d_model"]:
    weights = mask.to(W_U.dtype) / mask.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("ao,aod->ad", weights, W_U[ids])


def _gradients(model: Transformer, graph: Graph, answers: Answers, streams: Streams) -> Iterator[tuple[int, UnitGradient]]:
    """Gradients of D at a run, with the unit of each, from the logits backwards."""
    gradients = reader_gradients(model, graph, streams, _at_logits(model, answers, streams[-1]))
    yield from zip(reversed(range(len(graph.units))), gradients, strict=True)


def _at_logits(
    model: Transformer, answers: Answers, last: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """dD/d the last stream."""
    at_rows = _through_final_norm(model, answers.rows(last), directions(model, answers), frozen=False)
    shares = 1 / (torch.bincount(answers.example)[answers.example] * answers.n_examples)
    at_logits = torch.zeros_like(last, dtype=at_rows.dtype)
    at_logits.index_put_((answers.example, answers.pos), at_rows * shares[:, None], accumulate=True)
    return at_logits


def _through_final_norm(model: Transformer, x: Tensor, u: Tensor, frozen: bool) -> Tensor:
    return norm_pull_back(model.config.norm, model.weights.final_norm, x, u, frozen).to(x.dtype)


def answered(task: Task) -> Bool[Tensor, "batch pos"]:
    """The positions at which answers are read."""
    read = torch.zeros_like(task.clean.ids, dtype=torch.bool)
    read[task.answers.example, task.answers.pos] = True
    return read


def _ends_alone(task: Task) -> Roles:
    named = [with_ends({}, row.nonzero().flatten().tolist()) for row in answered(task)]
    return Roles.from_positions(named, task.clean.lengths.tolist(), task.clean.ids.device)


_TOKENS = 5


@dataclass(frozen=True)
class Written:
    """Token ids whose logits are raised and lowered most, from the largest change."""

    up: tuple[int, ...]
    down: tuple[int, ...]


@dataclass(frozen=True)
class NeuronAtWork:
    """One neuron of an MLP on the task's prompts.

    Args:
        neuron: its number.
        effect: first-order effect of corrupting it, in logits, as told above.
        fires_on: the tokens at which its activation is largest, from the largest.
        written: by its output row, times the sign of its mean activation there.
    """

    neuron: int
    effect: float
    fires_on: tuple[int, ...]
    written: Written


def written(observed: Observation, writers: list[int], role: str) -> Written:
    """The mean joint output of some writers at the positions of a role, over prompts."""
    return as_tokens(observed, observed.values[writers].sum(0), role)


@torch.no_grad()
def as_tokens(observed: Observation, values: Float[Tensor, "batch pos d_model"], role: str) -> Written:
    """The mean of vectors at the positions of a role, as tokens."""
    here = observed.rows(role) > 0
    return _extremes(observed, _through_frozen_norm(observed, values[here], observed.streams[0][-1][here]).mean(0))


@torch.no_grad()
def neurons_at_work(observed: Observation, node: Node, count: int = 3) -> tuple[NeuronAtWork, ...]:
    """The neurons of a node whose corruption matters most, from the largest effect on; none of mixtures of experts."""
    model, task, layer, mine = observed.model, observed.task, node.layer, node.neurons
    if layer is None or mine is None or not isinstance((weights := model.weights.layers[layer]).mlp, MLPWeights):
        return ()
    unit = observed.graph.unit_index[f"m{layer}"]
    assert weights.mlp_norm is not None
    normed = [normalize(streams[unit], model.config.norm, weights.mlp_norm) for streams in observed.streams]
    at_written = observed.at_mlps[layer]
    if weights.mlp_post_norm is not None:
        raw = mlp(model.config, weights.mlp, normed[0])
        at_written = norm_pull_back(model.config.norm, weights.mlp_post_norm, raw, at_written)
    clean, corrupted = [neurons(model.config, weights.mlp, x) for x in normed]
    effects = ((clean - corrupted) * (at_written.to(clean.dtype) @ weights.mlp.W_out.T)).sum((0, 1))
    within = torch.arange(task.clean.ids.shape[1], device=model.device) < task.clean.lengths[:, None]
    numbers = torch.arange(len(effects), device=model.device)[mine]
    chosen = numbers[effects[mine].abs().topk(min(count, len(numbers))).indices].tolist()
    return tuple(_at_work(observed, layer, n, float(effects[n]), clean[..., n].masked_fill(~within, 0)) for n in chosen)


def _at_work(
    observed: Observation, layer: int, neuron: int, effect: float, activation: Float[Tensor, "batch pos"]
) -> NeuronAtWork:
    weights = observed.model.weights.layers[layer]
    assert isinstance(weights.mlp, MLPWeights)
    # gated neurons fire with either sign: the stronger counts
    sign = 1 if float(activation.max()) >= -float(activation.min()) else -1
    order = (sign * activation).flatten().argsort(descending=True)
    fires_on = tuple(dict.fromkeys(observed.task.clean.ids.flatten()[order[: 4 * _TOKENS]].tolist()))[:_TOKENS]
    row, last = sign * weights.mlp.W_out[neuron], observed.streams[0][-1]
    row = row if weights.mlp_post_norm is None or weights.mlp_post_norm.gain is None else row * weights.mlp_post_norm.gain
    at = observed.task.answers.rows(last)[:1]
    return NeuronAtWork(neuron, effect, fires_on, _extremes(observed, _through_frozen_norm(observed, row[None], at)[0]))


def _through_frozen_norm(
    observed: Observation, values: Float[Tensor, "row d_model"], last: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row d_model"]:
    """A share of the last stream after the final norm, with the norm's scale frozen."""
    gain = observed.model.weights.final_norm.gain
    match observed.model.config.norm:
        case NoNorm():
            return values
        case LayerNorm(eps):
            values = values - values.mean(-1, keepdim=True)
            scale = torch.rsqrt(last.float().var(-1, keepdim=True, correction=0) + eps)
        case RMSNorm(eps):
            scale = torch.rsqrt(last.float().square().mean(-1, keepdim=True) + eps)
    values = (values.float() * scale).to(values.dtype)
    return values if gain is None else values * gain


def _extremes(observed: Observation, direction: Float[Tensor, " d_model"]) -> Written:
    logits = observed.model.weights.W_U @ direction
    count = min(_TOKENS, len(logits) // 2)
    up, down = (tuple((sign * logits).topk(count).indices.tolist()) for sign in (1, -1))
    return Written(up, down)
