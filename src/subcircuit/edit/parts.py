"""Removable parts of a model (nodes or edges), and the share of a behaviour that remains without them.

The model runs with a number for each part, 1 where it stays and 0 where it is removed, and is differentiable in it. The
share of a behaviour is a metric divided by that of the whole model:

    share(M') = m(M') / m(M)        m: mean over examples of a metric that grows with the behaviour

So 1 is the model, 0 is indifference, and below 0 the model prefers wrong answers. The share may lie above 1: an edit may
also make a behaviour stronger.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.edit.weights import blend, can_be_removed
from subcircuit.engine import Optimal, last_stream
from subcircuit.errors import NumericalError, SettingsError
from subcircuit.graph import MLP, Circuit, Graph, Head, Neuron, Node
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer
from subcircuit.tasks import Metric, Task, check_vocabulary
from subcircuit.tasks import metric as metric_named
from subcircuit.tasks.metrics import example_losses

Stream: TypeAlias = Callable[[Tokens], Float[Tensor, "batch pos d_model"]]
"""From prompts to the last residual stream, before the final norm."""


@dataclass(frozen=True, eq=False)
class NodeParts:
    """Heads, MLPs and neurons, removed from the weights.

    Args:
        constants: the constant that replaces each removed node's output; None is zero.
    """

    model: Transformer
    nodes: tuple[Node, ...]
    constants: Float[Tensor, "part d_model"] | None

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes' names."""
        return tuple(str(node) for node in self.nodes)

    @property
    def single(self) -> bool:
        """True: nodes are few, so the search tries them one by one."""
        return True

    def stream(self, kept: Float[Tensor, " part"], tokens: Tokens) -> Float[Tensor, "batch pos d_model"]:
        """A plain forward pass of the edited weights."""
        if kept.requires_grad:
            return blend(self.model, self.nodes, kept, self.constants).stream(tokens)
        gone = (kept != 1).nonzero().flatten().tolist()
        constants = None if self.constants is None else self.constants[gone]
        return blend(self.model, [self.nodes[row] for row in gone], kept[gone], constants).stream(tokens)


@dataclass(frozen=True, eq=False)
class EdgeParts:
    """Edges, which are cut: they carry constants.

    Args:
        rows, columns: writer and reader of each edge.
        constants: the value that each writer's cut edges carry.
    """

    model: Transformer
    graph: Graph
    rows: Int[Tensor, " part"]
    columns: Int[Tensor, " part"]
    constants: Float[Tensor, "writer d_model"]

    @staticmethod
    def of(model: Transformer, circuit: Circuit, constants: Float[Tensor, "writer d_model"]) -> "EdgeParts":
        """The edges of a circuit, by reader and then by writer."""
        columns, rows = circuit.kept.T.nonzero(as_tuple=True)
        return EdgeParts(model, circuit.graph, rows, columns, constants)

    @property
    def names(self) -> tuple[str, ...]:
        """The edges' names."""
        writers, readers = self.graph.writers, self.graph.readers
        pairs = zip(self.rows.tolist(), self.columns.tolist(), strict=True)
        return tuple(f"{writers[row]}->{readers[column]}" for row, column in pairs)

    @property
    def single(self) -> bool:
        """False: edges are many, so the search tries them in groups."""
        return False

    def mask(self, kept: Float[Tensor, " part"]) -> Float[Tensor, "writer reader"]:
        """Of the whole graph."""
        return self.graph.edges.to(kept.dtype).index_put((self.rows, self.columns), kept.cpu())

    def left(self, removed: Sequence[int]) -> Circuit:
        """The whole graph without some of the parts."""
        gone, kept = torch.tensor(list(removed), dtype=torch.long), self.graph.edges.clone()
        kept[self.rows[gone], self.columns[gone]] = False
        return Circuit(self.graph, kept)

    def stream(self, kept: Float[Tensor, " part"], tokens: Tokens) -> Float[Tensor, "batch pos d_model"]:
        """The masked forward pass."""
        return cut_stream(self.model, self.graph, self.mask(kept), tokens, self.constants)


Parts: TypeAlias = NodeParts | EdgeParts
"""Parts of a model that a search may remove."""


def cut_stream(
    model: Transformer,
    graph: Graph,
    kept: Float[Tensor, "writer reader"],
    tokens: Tokens,
    constants: Float[Tensor, "writer d_model"],
) -> Float[Tensor, "batch pos d_model"]:
    """The masked forward pass with constants on cut edges: it needs no corrupted prompts."""
    return last_stream(model, graph, kept, tokens, Optimal(constants).values(model, graph, tokens))


def nodes_of(circuit: Circuit) -> tuple[Node, ...]:
    """The heads, MLPs and neurons at the ends of a circuit's edges, in order of computation; a block stands for its heads.

    Embeddings are left out, because every circuit needs them.
    """
    nodes: list[Node] = []
    for node in circuit.nodes:
        if can_be_removed(node):
            nodes.append(node)
        elif (row := circuit.graph.writer_index.get(node)) is not None and (
            unit := circuit.graph.unit_of_writer[row]
        ) is not None:
            nodes += filter(can_be_removed, circuit.graph.units[unit].apart.writers)
    return tuple(nodes)


def all_nodes(model: Transformer, split: Collection[int] = ()) -> tuple[Node, ...]:
    """Every head and MLP of a model, in order of computation.

    Args:
        split: layers whose MLP is resolved into its neurons.
    """
    nodes: list[Node] = []
    for layer in range(model.config.n_layers):
        nodes += [Head(layer, head) for head in range(model.config.n_heads)]
        if layer in split:
            nodes += [Neuron(layer, neuron) for neuron in range(model.config.d_mlp)]
        elif model.config.d_mlp:
            nodes.append(MLP(layer))
    return tuple(nodes)


_PROMPTS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Probe:
    """A behaviour, and its strength in the whole model.

    Args:
        model: the model whose final norm and unembedding read the stream; edits do not change them.
        whole: the metric of the whole model, above 0.
    """

    model: Transformer
    task: Task
    metric: Metric
    whole: float

    @staticmethod
    @torch.no_grad()
    def of(model: Transformer, task: Task, metric: str | None = None) -> "Probe":
        """Measure the whole model.

        Args:
            metric: its name; None is the task's own if it grows with the behaviour, else the logit difference.

        Raises:
            SettingsError: the metric does not grow with the behaviour or has no gradients, the task has no wrong answers,
                or the model does not do the task.
            PromptError: the task was made for a model with another tokenizer.
        """
        check_vocabulary(model, task)
        chosen, task = telling(task, metric), task.to(model.device)
        whole = float(measure(model, task, chosen, model.stream))
        if not whole > 0:
            raise SettingsError(
                f"{model.name} does not do {task.name}: its {chosen.name.replace('_', ' ')} is {whole:.3g} on {len(task)} prompts, "
                "so a share of it has no meaning. Choose another task."
            )
        return Probe(model, task, chosen, whole)

    def share(self, run: Stream) -> Float[Tensor, ""]:
        """The metric of an edited model over that of the whole one, in float64; differentiable where the run is."""
        return measure(self.model, self.task, self.metric, run) / self.whole


def measure(model: Transformer, task: Task, metric: Metric, run: Stream) -> Float[Tensor, ""]:
    """A metric's mean over a task's examples, in its own sign and in float64.

    Raises:
        NumericalError: it is NaN or infinite.
    """
    losses = []
    for start in range(0, len(task), _PROMPTS_AT_ONCE):
        part = task[start : start + _PROMPTS_AT_ONCE]
        tokens = part.clean.until(int(part.answers.pos.max()) + 1) if model.config.causal else part.clean
        losses.append(example_losses(model, part.answers, metric.bind(part.answers), part.answers.rows(run(tokens))))
    value = metric.value(torch.cat(losses).mean())
    if not bool(value.isfinite()):
        raise NumericalError(f"{metric.name} of {task.name} is {float(value)} in {model.dtype}: load the model in float32")
    return value


def telling(task: Task, name: str | None) -> Metric:
    """A metric of the strength of a behaviour: it grows with the behaviour and has gradients.

    Raises:
        SettingsError: the requested metric does not, or the task has no wrong answers to compare with.
        UnknownNameError: no such metric.
    """
    chosen = metric_named(name or task.metric)
    if chosen.direction == "higher" and chosen.differentiable and not chosen.compares:
        return chosen
    if name is not None:
        raise SettingsError(
            f"metric {name} does not measure how much of a capability is left: choose a metric that grows with the capability "
            "and has gradients, such as logit_difference or probability_difference."
        )
    if not task.answers.contrasts:
        raise SettingsError(
            f"task {task.name} has no wrong answers, and the capability is measured as the difference between right and wrong "
            "answers. Add wrong_answers to the pairs."
        )
    return metric_named("logit_difference")
