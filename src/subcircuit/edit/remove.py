"""Removal of a capability from a model, and the opposite edit, which keeps only a circuit.

Parts are nodes (heads and MLPs, removed from the weights) or edges (cut, behind a wrapper). Their replacements are in
``replacement.py``: means are over the task's corrupted prompts and the retained tasks' prompts. Optimal constants are
learned on the retained tasks (without any, on the corrupted prompts) once the search has chosen what to remove with means;
where they let the capability back in, the search goes on from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor

from subcircuit.edit.checkpoint import CutModel, check_constants, keeps_constants
from subcircuit.edit.parts import EdgeParts, NodeParts, Parts, Probe, all_nodes, nodes_of
from subcircuit.edit.replacement import Fill, mean_values, mean_writes, optimal_values, optimal_writes
from subcircuit.edit.search import OnPoint, RemovalSearch, RemovedParts, find
from subcircuit.edit.weights import is_whole_mlp, remove_nodes, resolved_layers
from subcircuit.entry import entry
from subcircuit.errors import EditError, GraphError
from subcircuit.graph import Circuit, Node
from subcircuit.model import MixtureWeights, Transformer
from subcircuit.model.tokens import Tokens
from subcircuit.search import OnProgress
from subcircuit.tasks import Task, check_same_vocabulary, check_vocabulary

Level: TypeAlias = Literal["node", "edge"]

_MOST_REPAIRS = 4


@dataclass(frozen=True, eq=False)
class NodeEdit:
    """Nodes removed from the weights.

    Args:
        base: the whole model.
        nodes: the removed nodes.
        constants: the constant that replaces each node's output; None is zero.
    """

    base: Transformer
    nodes: tuple[Node, ...]
    constants: Float[Tensor, "part d_model"] | None

    def __repr__(self) -> str:
        return f"NodeEdit({self.base.name} without {len(self.nodes):,} nodes)"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the removed nodes."""
        return tuple(str(node) for node in self.nodes)

    @property
    def model(self) -> Transformer:
        """The model without them."""
        return remove_nodes(self.base, self.nodes, self.constants)


@dataclass(frozen=True, eq=False)
class EdgeEdit:
    """Edges cut, behind a wrapper.

    Args:
        base: the whole model.
        model: the wrapper.
    """

    base: Transformer
    model: CutModel

    def __repr__(self) -> str:
        return f"EdgeEdit({self.base.name} without {len(self.names):,} edges)"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the cut edges."""
        left = self.model.circuit
        return tuple(Circuit.full(left.graph).difference(left).names)


Edit: TypeAlias = NodeEdit | EdgeEdit


@dataclass(frozen=True)
class Means:
    """Settings of an edit.

    Args:
        level: ``"node"`` removes heads and MLPs from the weights, ``"edge"`` cuts edges behind a wrapper.
        fill: replacement for removed parts. None is the mean, or zero at level ``node`` if checkpoints of the family have no
            place for a constant.
    """

    level: Level = "node"
    fill: Fill | None = None


@dataclass(frozen=True, eq=False)
class Removal:
    """The removal of a capability.

    Args:
        edit: the edited model.
        fill: replacement for removed parts.
        target, retained: the behaviours, on the prompts of the search.
        found: result of the search.
        settings: settings of the search.
    """

    edit: Edit
    fill: Fill
    target: Probe
    retained: tuple[Probe, ...]
    found: RemovedParts
    settings: RemovalSearch

    def __repr__(self) -> str:
        left = self.found.path[-1]
        shares = f"{left.target:z.1%} of {self.target.task.name} left on the prompts of the search"
        return f"Removal({self.edit}: {shares}, {len(self.found.path) - 1} steps)"

    @property
    def floor_held(self) -> bool:
        """Every retained task kept its floor on the prompts of the search."""
        return min(self.found.path[-1].retained, default=1.0) >= self.settings.floor


def check_same_model(circuit: Circuit, model: Transformer) -> None:
    """Refuse to edit another model than the circuit's, or at single positions: weights act at all positions.

    Raises:
        GraphError: its graph or the digest of its config differs, or its nodes are told apart by position.
    """
    if circuit.graph.shape.positions:
        raise GraphError(
            f"the circuit has nodes at single positions ({circuit.graph.scope}), and weights act at all positions. Nothing was "
            "removed. Search without positions, or merge the positions: coarsen(circuit, circuit.graph.without_positions)"
        )
    if unlike := circuit.graph.unlike_model(model.config):
        raise GraphError(
            f"the circuit was found in another model than {model.name}; their graphs differ in {unlike}. Nothing was removed: give "
            "the model in which the circuit was found"
        )
    recorded = None if circuit.record is None else circuit.record.model
    if recorded is not None and recorded.config != model.config.digest:
        raise GraphError(
            f"the circuit was found in {recorded.name}, whose config has the digest {recorded.config}; that of {model.name} is "
            f"{model.config.digest}. Nothing was removed: give the model in which the circuit was found"
        )


@entry
def remove(
    model: Transformer,
    circuit: Circuit,
    task: Task,
    *,
    retain: Sequence[Task] = (),
    means: Means | None = None,
    metric: str | None = None,
    settings: RemovalSearch | None = None,
    on_step: OnPoint | None = None,
    on_round: OnProgress | None = None,
) -> Removal:
    """Take a capability out of a model: the smallest part of its circuit whose removal brings it below a target.

    Args:
        model: the model of the circuit.
        circuit: circuit of the capability; only its parts are removed.
        task: search prompts of the capability.
        retain: tasks that the edit must keep.
        means: nodes or edges, and their replacement.
        metric: metric of the capability; None is the task's own or the logit difference.
        settings: settings of the search.
        on_step: called after every step of the search.
        on_round: called while parts are measured and while optimal constants are learned.

    Raises:
        GraphError: the circuit is another model's.
        EditError: the target cannot be reached, or the family has no place for the constants.
        SettingsError: the model does not do one of the tasks, or a metric that cannot be used.
        PromptError: a task was made for a model with another tokenizer.

    Examples:
        >>> removal = remove(model, circuit, load_task("ioi", model), retain=[load_task("sva", model)])  # doctest: +SKIP
    """
    check_same_model(circuit, model)
    _check_tasks(circuit, model, (task, *retain))
    means, settings = means or Means(), settings or RemovalSearch()
    target, retained = Probe.of(model, task, metric), tuple(Probe.of(model, other) for other in retain)
    nodes = nodes_of(circuit) if means.level == "node" else ()
    fill = _fill(model, nodes, means)
    material = _Material(model, task.to(model.device), [other.to(model.device) for other in retain], fill)
    parts = material.edges(circuit) if means.level == "edge" else material.nodes(nodes)
    found = find(parts, target, retained, settings, on_step, on_round=on_round)
    for _ in range(_MOST_REPAIRS if fill == "optimal" else 0):
        parts = material.learned(parts, found.removed, on_round)
        more = find(parts, target, retained, settings, on_step, found.removed, on_round)
        found = RemovedParts(more.removed, (*found.path, *more.path))
        if len(more.path) == 1:
            break
    return Removal(_edit(parts, found.removed), fill, target, retained, found, settings)


@entry
def keep(
    model: Transformer,
    circuit: Circuit,
    task: Task,
    *,
    retain: Sequence[Task] = (),
    means: Means | None = None,
    on_round: OnProgress | None = None,
) -> tuple[Edit, Fill]:
    """Keep only a circuit of a model: its heads and MLPs, with all their inputs, or its edges alone.

    Args:
        model, circuit, means, on_round: as in `remove`.
        task: task of the circuit; optimal constants are learned on its prompts.
        retain: tasks whose prompts are included in means.

    Returns:
        The edit, and the replacement for removed parts.

    Raises:
        GraphError: the circuit is another model's.
        EditError: nothing would be removed, or the family has no place for the constants.
    """
    check_same_model(circuit, model)
    _check_tasks(circuit, model, (task, *retain))
    means = means or Means()
    kept = set(nodes_of(circuit)) if means.level == "node" else set()
    split = resolved_layers(circuit.graph.writers)
    parts_of_model = all_nodes(model, split)
    if unknown := kept - set(parts_of_model):
        raise EditError(
            f"the circuit contains {min(map(str, unknown))}, which is not a head, MLP or neuron and cannot be kept as a node: use --level edge"
        )
    gone = tuple(node for node in parts_of_model if node not in kept)
    fill = _fill(model, gone, means)
    material = _Material(model, task.to(model.device), [other.to(model.device) for other in retain], fill)
    if means.level == "edge":
        parts = material.edges(Circuit.full(circuit.graph).difference(circuit))
    elif gone:
        parts = material.nodes(gone)
    else:
        raise EditError(
            "the circuit contains every head and every MLP of the model, so nothing would be removed. Use --level edge"
        )
    everything = tuple(range(len(parts.names)))
    if fill == "optimal":
        parts = replace(material, learn_on=[material.task]).learned(parts, everything, on_round)
    return _edit(parts, everything), fill


def _check_tasks(circuit: Circuit, model: Transformer, tasks: Sequence[Task]) -> None:
    for task in tasks:
        check_vocabulary(model, task)
        check_same_vocabulary(circuit, task)


def _fill(model: Transformer, nodes: tuple[Node, ...], means: Means) -> Fill:
    """The replacement for nodes or edges; for a model from a checkpoint, one that a checkpoint can hold."""
    if means.level == "edge":
        return means.fill or "mean"
    for node in nodes:
        experts = node.layer is not None and isinstance(model.weights.layers[node.layer].mlp, MixtureWeights)
        if experts and is_whole_mlp([node.neurons]):
            raise EditError(
                f"{node} is a mixture of experts, which cannot be removed from the weights as a node: use --level edge"
            )
    if model.folder is None:
        return means.fill or "mean"
    possible = keeps_constants(model, nodes)
    fill: Fill = means.fill or ("mean" if possible else "zero")
    if fill != "zero":
        check_constants(model, nodes, fill)
    return fill


@dataclass(frozen=True, eq=False)
class _Material:
    """The sources of constants.

    Args:
        learn_on: tasks on which optimal constants minimise the cost; None is the retained ones.
    """

    model: Transformer
    task: Task
    retain: Sequence[Task]
    fill: Fill
    learn_on: Sequence[Task] | None = None

    def nodes(self, nodes: tuple[Node, ...]) -> NodeParts:
        """Nodes, before anything is learned."""
        constants = None if self.fill == "zero" else mean_writes(self.model, nodes, self._prompts)
        return NodeParts(self.model, nodes, constants)

    def edges(self, circuit: Circuit) -> EdgeParts:
        """A circuit's edges, before anything is learned."""
        if self.fill == "zero":
            constants = self.model.weights.W_E.new_zeros(len(circuit.graph.writers), self.model.config.d_model)
        else:
            constants = mean_values(self.model, circuit.graph, self._prompts)
        return EdgeParts.of(self.model, circuit, constants)

    def learned(self, parts: Parts, removed: Sequence[int], on_round: OnProgress | None) -> Parts:
        """The parts with optimal constants for those that are gone."""
        tasks, gone = self._tasks, list(removed)
        if isinstance(parts, EdgeParts):
            return replace(parts, constants=optimal_values(self.model, parts.left(removed), tasks, on_round))
        assert parts.constants is not None
        constants = parts.constants.clone()
        constants[gone] = optimal_writes(self.model, [parts.nodes[row] for row in gone], tasks, on_round)
        return replace(parts, constants=constants)

    @property
    def _prompts(self) -> list[Tokens]:
        return [self.task.corrupted, *(other.clean for other in self.retain)]

    @property
    def _tasks(self) -> Sequence[Task]:
        if self.learn_on is not None or self.retain:
            return self.learn_on or self.retain
        return [replace(self.task, clean=self.task.corrupted, corrupted=self.task.clean)]


def _edit(parts: Parts, removed: Sequence[int]) -> Edit:
    if isinstance(parts, EdgeParts):
        left = replace(parts.left(removed), constants=parts.constants.float().cpu())
        return EdgeEdit(parts.model, CutModel(parts.model, left))
    gone = list(removed)
    constants = None if parts.constants is None else parts.constants[gone]
    return NodeEdit(parts.model, tuple(parts.nodes[row] for row in gone), constants)
