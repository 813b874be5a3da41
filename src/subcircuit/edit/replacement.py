"""Replacements of removed parts: one constant vector each.

    zero       nothing
    mean       the part's mean output over all real positions of the given prompts: information is taken away,
               the level that the rest of the model is used to stays
    optimal    what costs other behaviours least: learned by ``search/optimal.py``, from the mean, for what is gone and no more

With sandwich norms what a node writes is what goes into the norm after the block (see ``weights.py``), and what an edge carries is
what comes out of it. Cost of a mean: two plain forward passes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.edit.weights import Taken, is_whole_mlp, resolved_layers, taken
from subcircuit.engine import writer_values
from subcircuit.errors import EditError, UnknownNameError
from subcircuit.graph import Circuit, Graph, Node, Scope
from subcircuit.model.attention import PARTS, attention, mix, project
from subcircuit.model.components import embed, mlp, neurons, normalize
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer, block
from subcircuit.model.weights import MLPWeights
from subcircuit.search import LearnOptimal, OnProgress, Problem, learn_optimal
from subcircuit.tasks import Answer, Task, build_task_of_ids, metric

Fill: TypeAlias = Literal["mean", "zero", "optimal"]

_PROMPTS_AT_ONCE = 16
_STEPS = 100


def fill_named(name: str) -> Fill:
    """The replacement of this name.

    Raises:
        UnknownNameError: no replacement has this name; values of a corrupted prompt are not constants.
    """
    for fill in get_args(Fill):
        if fill == name:
            return fill
    raise UnknownNameError(
        "ablation", name, get_args(Fill), "The replacement for a removed component cannot depend on a corrupted prompt."
    )


@torch.no_grad()
def mean_writes(model: Transformer, nodes: Sequence[Node], prompts: Iterable[Tokens]) -> Float[Tensor, "part d_model"]:
    """The mean output of each node."""
    totals = torch.zeros(len(nodes), model.config.d_model, dtype=torch.float64, device=model.device)
    count, layers = 0, taken(nodes)
    for tokens, real in _batches(prompts):
        count += int(real.sum())
        stream = embed(model.config, model.weights, tokens.ids)
        for layer in range(model.config.n_layers):
            parts = layers.get(layer, Taken())
            if parts.heads:
                totals[list(parts.heads)] += _heads(model, layer, tuple(parts.heads.values()), stream)[:, real].double().sum(1)
            if parts.neurons:
                totals[list(parts.neurons)] += _of_mlp(model, layer, list(parts.neurons.values()), stream, real)
            stream = block(model, layer, stream)
    return (totals / count).to(model.dtype)


@torch.no_grad()
def mean_values(model: Transformer, graph: Graph, prompts: Iterable[Tokens]) -> Float[Tensor, "writer d_model"]:
    """The mean value that each writer of a graph adds to the stream."""
    totals = torch.zeros(len(graph.writers), model.config.d_model, dtype=torch.float64, device=model.device)
    count = 0
    for tokens, real in _batches(prompts):
        count += int(real.sum())
        totals += writer_values(model, graph, tokens)[:, real].double().sum(1)
    return (totals / count).to(model.dtype)


def optimal_values(
    model: Transformer, circuit: Circuit, tasks: Sequence[Task], on_step: OnProgress | None = None
) -> Float[Tensor, "writer d_model"]:
    """Constants on a circuit's cut edges that move the model's predictions on these tasks as little as possible (KL)."""
    problem = Problem(model, circuit.graph, _joined(model, tasks), metric("kl_divergence"))
    learned = learn_optimal(problem, LearnOptimal(steps=_STEPS), on_step, circuit=circuit)
    return learned.constants.to(model.device, model.dtype)


def optimal_writes(
    model: Transformer, nodes: Sequence[Node], tasks: Sequence[Task], on_step: OnProgress | None = None
) -> Float[Tensor, "part d_model"]:
    """The same for nodes of which every edge is cut.

    Raises:
        EditError: the family has sandwich norms.
    """
    if model.config.post_norms:
        raise EditError(
            f"optimal constants of {model.name} are learned after the norm that follows a block, and a checkpoint stores constants before "
            "that norm: use --ablation mean or zero, or --level edge"
        )
    split = resolved_layers(nodes)
    graph = Graph.of(model.config, Scope(level="head", overrides=tuple((f"m{layer}", "neuron") for layer in sorted(split))))
    rows = [graph.writer_index[node] for node in nodes]
    kept = graph.edges.clone()
    kept[rows] = False
    return optimal_values(model, Circuit(graph, kept), tasks, on_step)[rows]


def _joined(model: Transformer, tasks: Sequence[Task]) -> Task:
    """Several tasks as one."""
    clean, corrupted, answers = [], [], []
    for task in tasks:
        a = task.answers
        for example, pos, right, is_right, wrong, is_wrong in zip(
            a.example.tolist(), a.pos.tolist(), a.correct, a.correct_mask, a.wrong, a.wrong_mask, strict=True
        ):
            shifted = len(clean) + example
            answers.append(Answer(shifted, pos, tuple(right[is_right].tolist()), tuple(wrong[is_wrong].tolist())))
        clean += task.clean.to_lists()
        corrupted += task.corrupted.to_lists()
    parameters = {"of": [dict(task.parameters) for task in tasks]}
    return build_task_of_ids(" and ".join(task.name for task in tasks), clean, corrupted, answers, model, parameters=parameters)


def _batches(prompts: Iterable[Tokens]) -> Iterator[tuple[Tokens, Tensor]]:
    """Batches of a few prompts, each with a mask of its real positions."""
    for tokens in prompts:
        for start in range(0, len(tokens), _PROMPTS_AT_ONCE):
            part = tokens[start : start + _PROMPTS_AT_ONCE]
            yield part, torch.arange(part.ids.shape[1], device=part.ids.device) < part.lengths[:, None]


def _heads(
    model: Transformer, layer: int, heads: tuple[int, ...], stream: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "head batch pos d_model"]:
    """The output of heads before any norm after the block."""
    positions = torch.arange(stream.shape[1], device=stream.device)
    q, k, v = (project(model, layer, part, stream[None], positions, heads) for part in PARTS)
    W_O = model.weights.layers[layer].attention.W_O[list(heads)]
    return mix(model, layer, q, k, v) @ W_O[:, None]


def _of_mlp(
    model: Transformer,
    layer: int,
    which: list[slice],
    stream: Float[Tensor, "batch pos d_model"],
    real: Bool[Tensor, "batch pos"],
) -> Float[Tensor, "part d_model"]:
    """The output of an MLP, or of each part of it, before any norm after it, summed over real positions."""
    weights, x = _mlp_and_input(model, layer, stream)
    if is_whole_mlp(which):
        return mlp(model.config, weights, x)[real].double().sum(0, keepdim=True)
    activations, W_out = neurons(model.config, weights, x[real]).double().sum(0)[:, None], weights.W_out.double()
    return torch.stack([(activations[part] * W_out[part]).sum(0) for part in which])


def _mlp_and_input(
    model: Transformer, layer: int, stream: Float[Tensor, "batch pos d_model"]
) -> tuple[MLPWeights, Float[Tensor, "batch pos d_model"]]:
    weights = model.weights.layers[layer]
    assert isinstance(weights.mlp, MLPWeights) and weights.mlp_norm is not None
    read = stream if model.config.parallel else stream + attention(model, layer, stream)
    return weights.mlp, normalize(read, model.config.norm, weights.mlp_norm)
