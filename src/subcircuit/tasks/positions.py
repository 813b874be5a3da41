"""Positions of a graph's nodes on a task: each position of prompts of one length, or each token role.

A graph holds the names of its positions, and a task maps each index of a prompt to one of them. Roles have a fixed order that
does not depend on the prompts, so circuits found on different prompts of a task have the same graph.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from subcircuit.entry import entry
from subcircuit.errors import GraphError, PromptMismatchError
from subcircuit.graph import Graph, Scope
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.roles import END, REST, START
from subcircuit.tasks.task import Task, check_vocabulary


def positions_of(scope: Scope, task: Task) -> tuple[str, ...]:
    """The names of the positions at which a scope resolves nodes; empty if a node covers all positions.

    Raises:
        GraphError: the scope needs roles and the task declares none.
        PromptMismatchError: the scope resolves each position and the prompts have unequal lengths.
    """
    match scope.positions:
        case "all":
            return ()
        case "each":
            return tuple(str(position) for position in range(_length(task, scope)))
        case "roles":
            if task.roles is None:
                raise GraphError(
                    f"scope {scope}: task {task.name} declares no token roles. Built-in tasks declare them (ioi: IO, S1, S2, END, …), and so do "
                    'prompts in a file with "roles". For prompts of one length use positions=each.'
                )
            return in_order(task.roles.names)


@entry
def graph_of(model: Transformer, scope: Scope | str | None = None, task: Task | None = None) -> Graph:
    """The graph of a model, with the positions of a task if the scope resolves positions.

    Args:
        scope: as a value or as text; queries, keys and values of every head by default.
        task: needed only for a scope that resolves positions.

    Raises:
        UnknownNameError, GraphError, PromptMismatchError: the scope asks for something that the model or the task does not have.
        PromptError: the task was made for a model with another tokenizer.
    """
    scope = Scope.named(scope) if isinstance(scope, str) else scope or Scope()
    if task is None:
        if scope.positions != "all":
            raise GraphError(f"scope {scope} separates positions: give the task, whose prompts define the positions")
        return Graph.of(model.config, scope)
    check_vocabulary(model, task)
    return Graph.of(model.config, scope, positions_of(scope, task))


def in_order(roles: Sequence[str]) -> tuple[str, ...]:
    """Roles in the order of graphs: START first, then by name, then rest, and END last."""
    return tuple(sorted(roles, key=lambda name: (name != START, name == END, name == REST, name)))


def with_positions(graph: Graph, task: Task) -> Task:
    """The task with a graph's position recorded for each index of its prompts; the same task if the graph has no positions.

    Raises:
        GraphError: the prompts have a role that the graph does not have, or another length than its positions.
        PromptMismatchError: the graph is one of each position and the prompts have unequal lengths.
    """
    if not graph.shape.positions:
        return task
    if graph.scope.positions == "each":
        n = _length(task, graph.scope)
        if n != len(graph.shape.positions):
            raise GraphError(
                f"the graph has a node at each of {len(graph.shape.positions)} positions, and the prompts have {n}: use prompts of "
                "that length, or search again on these prompts"
            )
        of = torch.arange(n, device=task.clean.ids.device).expand(task.clean.ids.shape)
    else:
        of = _roles(graph, task)
    return replace(task, clean=replace(task.clean, positions=of), corrupted=replace(task.corrupted, positions=of))


def _roles(graph: Graph, task: Task) -> torch.Tensor:
    roles = () if task.roles is None else task.roles.names
    unknown = [name for name in roles if name not in graph.shape.positions]
    if task.roles is None or unknown:
        has = f"the role{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}" if unknown else "no roles"
        raise GraphError(
            f"the graph has nodes at {', '.join(graph.shape.positions)}, and the prompts of task {task.name} have {has}: search "
            "again on these prompts"
        )
    index = torch.tensor([graph.shape.positions.index(name) for name in roles], device=task.roles.of.device)
    return index[task.roles.of]


def _length(task: Task, scope: Scope) -> int:
    """The number of tokens in every prompt."""
    lengths = task.clean.lengths.tolist()
    other = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
    if other is not None:
        raise PromptMismatchError(
            f"scope {scope}: pair 1 has {lengths[0]} tokens and pair {other + 1} has {lengths[other]}. A node at each position "
            "needs prompts of one length that line up: use such prompts, or positions=roles where the task declares roles."
        )
    return lengths[0]
