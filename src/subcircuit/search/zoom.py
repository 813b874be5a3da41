"""Zoom: a finished search continued inside one node.

A zoom is ACDC on a finer graph in which most edges are already decided (``Within``). Edges that are parts of no kept coarse
edge are cut in advance, edges that do not touch the node stay, and only the others are tried, edge by edge, in ACDC's order and
with its threshold. As in ACDC, everything upstream of the visited reader is intact; earlier decisions take effect when their
reader is visited. Edges that the coarse search cut are never tried again: if the effects of two parts of a node cancel, both
are lost.
"""

from dataclasses import replace
from typing import Any

from subcircuit.entry import entry
from subcircuit.errors import GraphError
from subcircuit.graph import Attention, Circuit, Edge, Graph, Head, Level, resolve
from subcircuit.graph.scope import COMPONENT_LEVELS, component_named
from subcircuit.search.acdc import Acdc
from subcircuit.search.acdc_rules import Within
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress
from subcircuit.search.result import Result
from subcircuit.tasks import check_same_vocabulary, graph_of
from subcircuit.units.nodes import MLP, Reader, Writer, bare

POSITIONS = "positions"


@entry
def zoom(
    problem: Problem,
    circuit: Circuit,
    component: str,
    into: str,
    config: Acdc,
    on_step: OnProgress | None = None,
    journal: Journal = FORGETFUL,
) -> Result:
    """The result of continuing a finished search inside one node; the rest of its circuit stays as it is.

    Args:
        circuit: of this model; its scores and record are dropped.
        component: an attention block, a head or an MLP of the circuit.
        into: the node's new level; or ``positions``, to find the token roles (or the positions, if the task declares no roles) at
            which its edges are needed. All other edges stay, at every position.
        problem: prompts, metric and ablation of the search that is continued.
        config: settings of the continued search.
        on_step: called after every batch of trials.
        journal: stores the losses of every batch of trials.

    Raises:
        GraphError: the component is not in the circuit, cannot have this level, or has it already.
        PromptMismatchError: positions were requested for prompts of unequal lengths.
        NumericalError: a loss is NaN or infinite; names the edge.
    """
    check_same_vocabulary(circuit, problem.task)
    node, scope = _checked(circuit, component, into), circuit.graph.scope
    if into == POSITIONS:
        scope = replace(scope, positions="each" if problem.task.roles is None else "roles")
    else:
        levels: tuple[Level, ...] = COMPONENT_LEVELS[type(node)]
        scope = scope.at(component, levels[levels.index(into)])
    finer = graph_of(problem.model, scope, problem.task)
    finer = finer.with_units(*(circuit.graph.units[circuit.graph.unit_index[name]] for name in circuit.graph.from_elsewhere))
    kept = resolve(circuit, finer).kept
    inside = kept.clone()
    for row, writer in enumerate(finer.writers):
        for column in kept[row].nonzero().flatten().tolist():
            inside[row, column] = is_inside(writer, node) or is_inside(finer.readers[column], node)
    return config.search(replace(problem, graph=finer), on_step, journal, Within(kept, inside))


def zoomed(parameters: dict[str, Any], component: str, into: str) -> dict[str, Any]:
    """A search's recorded parameters, with a zoom added after earlier ones."""
    return {**parameters, "zooms": [*parameters.get("zooms", []), f"{component}={into}"]}


def is_inside(part: Writer | Reader, component: Attention | Head | MLP) -> bool:
    """Whether a node is the component or a part of it."""
    whole, inner = str(component), str(bare(part))
    return inner == whole or inner.startswith((f"{whole}.", f"{whole}<"))


def _checked(circuit: Circuit, component: str, into: str) -> Attention | Head | MLP:
    node, graph = component_named(component), circuit.graph
    levels = COMPONENT_LEVELS[type(node)]
    if into not in (*levels, POSITIONS):
        raise GraphError(f"{component} has no level {into!r}: choose {', '.join((*levels, POSITIONS))}")
    if not any(_touches(graph, edge, node) for edge in circuit.edges):
        shown = ", ".join(str(n) for n in circuit.nodes[:20]) + (", …" if len(circuit.nodes) > 20 else "")
        raise GraphError(f"{component} is not in the circuit, so it cannot be zoomed into. Nodes of the circuit: {shown}")
    if into == POSITIONS:
        if graph.shape.positions:
            raise GraphError(f"{component} already has a node at each of {', '.join(graph.shape.positions)}")
        return node
    of_mlp = graph.units[graph.unit_index[component]].level if node.kind == "mlp" else None
    if (level := graph.from_elsewhere.get(component.partition(".")[0])) is not None:
        raise GraphError(
            f"{component} is at level {level} from outside the package: only levels of the package can be zoomed into"
        )
    now = of_mlp or graph.scope.of_head(node.layer, getattr(node, "head", 0))
    if levels.index(into) <= levels.index(now if now in levels else levels[0]) and now != "block":
        raise GraphError(f"{component} is already at level {now}: choose a finer level")
    if into == "block":
        raise GraphError(f"{component} is at level {now}, and block is the coarsest level: choose a finer level")
    return node


def _touches(graph: Graph, edge: Edge, component: Attention | Head | MLP) -> bool:
    """Whether an edge ends at a component; a head of an unresolved block is no node."""
    return is_inside(edge.writer, component) or is_inside(edge.reader, component)
