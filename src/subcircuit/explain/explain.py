"""Explanation of a circuit: inputs, outputs, function and label of each node."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isnan
from typing import TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.errors import GraphError, NumericalError, SettingsError
from subcircuit.explain.explanation import Component, Explanation, HeadEvidence, NeuronEvidence, Route, TopTokens
from subcircuit.explain.heads import Looks, Mechanism, carried, growth, looks, mechanisms
from subcircuit.explain.labels import Facts, Label, Thresholds, label_head, label_mlp
from subcircuit.explain.observe import STEPS, Observation, Written, neurons_at_work, observe, written
from subcircuit.graph import Circuit, Node, coarsen
from subcircuit.graph.levels import parts_within
from subcircuit.model.transformer import Transformer
from subcircuit.search import OnProgress
from subcircuit.search.progress import ProgressCounter
from subcircuit.tasks import Task, check_same_vocabulary
from subcircuit.tasks.roles import REST

_TOP = 5
_NOTHING = 1e-4
_PASSES = 3  # movers, then who feeds them and backs them up, then who feeds those
_INTO = {"q": "Q", "k": "K", "v": "V", "mlp": "MLP", "logits": "logits"}

_Rows: TypeAlias = Mapping[Node, list[int]]
_Route: TypeAlias = tuple[Node, Node, Route]


@entry
def explain_circuit(
    model: Transformer,
    circuit: Circuit,
    task: Task,
    thresholds: Thresholds | None = None,
    on_step: OnProgress | None = None,
) -> Explanation:
    """The explanation of a circuit on a task's prompts: each component with its evidence and a label, or "unclear".

    The observation runs the whole model, not the circuit alone, so a head's label describes its attention in the model. The
    circuit selects the nodes and edges to report.

    Args:
        model: the model of the circuit.
        circuit: at least one edge; positions of its nodes are joined, because the explanation is by role.
        task: prompts with their counterparts; roles improve the explanation.
        thresholds: thresholds of the labels.
        on_step: called after every part of the observation, which takes most of the time, and when all is done.

    Raises:
        GraphError: the circuit is of another model, by its graph or by the config that it records.
        PromptError: the prompts were made for a model with another tokenizer.
        SettingsError: it has no edges, or its nodes are too many to observe on these prompts.
        NumericalError: NaN or infinity in the model's run.
    """
    if unlike := circuit.graph.unlike_model(model.config):
        raise GraphError(f"the circuit belongs to another model than {model.name}; their graphs differ in {unlike}")
    if circuit.record is not None and circuit.record.model.config != model.config.digest:
        raise GraphError(
            f"the circuit was found in {circuit.record.model.name}, and {model.name} is another model: their configs differ"
        )
    check_same_vocabulary(circuit, task)
    if not circuit.n_edges:
        raise SettingsError("the circuit has no edges: there is nothing to explain")
    thresholds, graph = thresholds or Thresholds(), circuit.graph
    circuit = coarsen(circuit, graph.without_positions) if graph.shape.positions else circuit
    # a node takes about as long as a unit's gradients
    rounds = ProgressCounter(STEPS * len(circuit.graph.units) + len(circuit.nodes), on_step, "parts", "observe")
    observed = observe(model, task.to(model.device), circuit.graph, rounds=rounds)
    if not bool(observed.node_effects.isfinite().all()) or not bool(observed.direct.isfinite().all()):
        raise NumericalError(f"{model.name} computes NaN or infinity on these prompts in {model.dtype}: try --dtype float32")
    evidence = _evidence(observed, circuit)
    labels = _labels(observed, circuit, evidence, thresholds)
    components: dict[str, Component] = {}
    for node in circuit.nodes:
        components[str(node)] = _component(observed, circuit, node, evidence, labels, thresholds)
        rounds.done(1)
    return Explanation(
        model=model.name,
        task=task.name,
        examples=len(task),
        roles=_in_order(observed),
        logit_difference=observed.difference,
        thresholds=asdict(thresholds),
        components=components,
    )


def _in_order(observed: Observation) -> tuple[str, ...]:
    """Roles as prompts have them, by their mean position; ``rest`` last."""
    positions = torch.arange(observed.task.clean.ids.shape[1], device=observed.model.device)
    positions = {
        name: float((observed.rows(name) * positions).sum() / observed.rows(name).sum()) for name in observed.roles.names
    }
    present = [name for name, position in positions.items() if not isnan(position)]
    return tuple(sorted(present, key=lambda name: (name == REST, positions[name])))


def _routes(observed: Observation, circuit: Circuit, columns: Bool[Tensor, "reader part"], rows: _Rows) -> list[_Route]:
    """Every edge of the circuit, as (from, to, with its effect); shares are of all edges into the same node."""
    graph, found = circuit.graph, list[tuple[Node, Node, str, float]]()
    for edge in circuit.edges:
        into = columns[:, graph.reader_index[edge.reader]].nonzero().flatten().tolist()
        effects = observed.edge_effects[rows[edge.writer]][:, into].sum(0)
        part = _composition([observed.graph.readers[column].kind for column in into], effects.tolist())
        # a key or value that heads share is an input of each of them
        for node in graph.nodes_of(edge.reader):
            found.append((edge.writer, node, part, float(effects.sum())))
    totals: dict[Node, float] = {}
    for _, node, _, effect in found:
        totals[node] = totals.get(node, 0.0) + abs(effect)
    return [
        (
            one,
            other,
            Route(node=str(other), composition=part, effect=effect, share=abs(effect) / totals[other] if totals[other] else 0.0),
        )
        for one, other, part, effect in found
    ]


def _composition(kinds: Sequence[str], effects: Sequence[float]) -> str:
    """The input that an edge enters; if the scope joins a head's inputs, the one with most of the effect."""
    by_kind: dict[str, float] = {}
    for kind, effect in zip(kinds, effects, strict=True):
        by_kind[kind] = by_kind.get(kind, 0.0) + effect
    return _INTO[max(by_kind, key=lambda kind: abs(by_kind[kind]))]


@dataclass(frozen=True)
class _Evidence:
    """The evidence for the labels.

    Args:
        rows: the writers that each node of the circuit, and each head of it, stands for where heads are apart: a block for its heads.
        heads: of every head of the circuit, those within blocks included.
        routes: see ``_routes``.
    """

    rows: _Rows
    heads: Mapping[Node, HeadEvidence]
    routes: Sequence[_Route]


def _evidence(observed: Observation, circuit: Circuit) -> _Evidence:
    seen, tokens, graph = looks(observed), carried(observed, _TOP), observed.graph
    wholes, columns = parts_within(graph, circuit.graph)
    rows: dict[Node, list[int]] = {node: [] for node in (*circuit.graph.writers, *circuit.nodes)}
    for row, whole in enumerate(wholes.tolist()):
        rows[circuit.graph.writers[whole]].append(row)
    wanted = {row for node in circuit.nodes for row in rows[node]}
    heads: dict[Node, HeadEvidence] = {}
    for unit, mine in zip(graph.units, graph.writers_in, strict=True):
        numbers = [number for number, row in enumerate(mine) if row in wanted] if unit.inputs else []
        found = mechanisms(observed.model, unit.layer, numbers, tokens) if numbers else []
        for number, by_weights in zip(numbers, found, strict=True):
            row = mine[number]
            head = graph.writers[row]
            rows[head] = [row]
            heads[head] = _head_evidence(observed, seen, (unit.layer, number), row, by_weights)
    return _Evidence(rows, heads, _routes(observed, circuit, columns, rows))


def _head_evidence(observed: Observation, seen: Looks, head: tuple[int, int], row: int, by_weights: Mechanism) -> HeadEvidence:
    layer, number = head
    names, matrix = observed.roles.names, seen.by_role[layer][number]
    here = names.index(acts_at(observed, [row]))
    return HeadEvidence(
        attention={
            name: {key: float(mass) for key, mass in zip(names, row, strict=True)}
            for name, row in zip(names, matrix, strict=True)
            if not isnan(float(row[0]))
        },
        looks={kind: _number(masses[number, here]) for kind, masses in seen.at_role[layer].items()},
        random=None if seen.random is None else {kind: _number(masses[number]) for kind, masses in seen.random[layer].items()},
        **asdict(by_weights),
        backup=None,
    )


def effects_by_role(observed: Observation, rows: list[int]) -> dict[str, float]:
    """First-order effects of corrupting writers at the positions of each role, in logits."""
    effects = observed.node_effects[rows].sum(0)
    return {name: float((effects * observed.rows(name)).sum()) for name in observed.roles.names}


def acts_at(observed: Observation, rows: list[int]) -> str:
    """The role at which writers have their largest effect, or, where first order shows none, where corruption moves them most."""
    effects = effects_by_role(observed, rows)
    if max(map(abs, effects.values())) <= _NOTHING * abs(observed.difference):
        moved = observed.moved[rows].sum(0)
        effects = {name: float((moved * (here := observed.rows(name))).sum() / here.sum().clamp(min=1)) for name in effects}
    return max(effects, key=lambda name: abs(effects[name]))


def _labels(
    observed: Observation, circuit: Circuit, evidence: _Evidence, thresholds: Thresholds
) -> dict[Node, tuple[Label, HeadEvidence]]:
    """Labels of heads, in passes: who feeds movers and who backs them up is known when movers are."""
    heads, labels, known = dict(evidence.heads), {}, {}
    for step in range(_PASSES):
        labels = {head: label_head(_facts(observed, evidence, head, one), thresholds, known) for head, one in heads.items()}
        known = {str(head): label.name for head, label in labels.items()}
        movers = [head for head, label in labels.items() if label.name in ("name mover", "mover")]
        if step == 0 and movers:
            grown = growth(observed, movers)
            heads |= {
                head: one.model_copy(update={"backup": float(grown[observed.graph.writer_index[head]])})
                for head, one in heads.items()
                if head not in movers
            }
    return {head: (labels[head], heads[head]) for head in heads}


def _facts(observed: Observation, evidence: _Evidence, node: Node, head: HeadEvidence | None) -> Facts:
    rows, size = evidence.rows[node], abs(observed.difference) or 1.0
    role = acts_at(observed, rows)
    grown = None if head is None or head.backup is None else head.backup / size
    return Facts(
        acts_at=role,
        ends=role == "END",
        effect=float(observed.node_effects[rows].sum()) / size,
        direct=float(observed.direct[rows].sum()) / size,
        head=head if head is None else head.model_copy(update={"backup": grown}),
        reads=_reads(evidence, node),
        feeds_queries_of=[str(other) for one, other, route in evidence.routes if one == node and route.composition == "Q"],
        roles=observed.roles.names,
        writes=_texts(observed, written(observed, rows, role)) if rows else TopTokens(up=(), down=()),
    )


def _reads(evidence: _Evidence, node: Node) -> list[Route]:
    reads = [route.model_copy(update={"node": str(one)}) for one, other, route in evidence.routes if other == node]
    return sorted(reads, key=lambda route: -abs(route.effect))


def _feeds(evidence: _Evidence, node: Node) -> list[Route]:
    return sorted((route for one, _, route in evidence.routes if one == node), key=lambda route: -abs(route.effect))


def _component(
    observed: Observation,
    circuit: Circuit,
    node: Node,
    evidence: _Evidence,
    labels: Mapping[Node, tuple[Label, HeadEvidence]],
    thresholds: Thresholds,
) -> Component:
    if node.kind == "logits":
        found = Label("logits", f"logit difference {observed.difference:+z.2f}")
        return Component(kind="logits", label=found.name, evidence=found.evidence, reads=tuple(_reads(evidence, node)))
    rows, facts = evidence.rows[node], _facts(observed, evidence, node, None)
    common = Component(
        kind="embedding",
        label="",
        evidence="",
        acts_at=facts.acts_at,
        effect=float(observed.node_effects[rows].sum()),
        effect_by_role=effects_by_role(observed, rows),
        direct=float(observed.direct[rows].sum()),
        writes=facts.writes,
        reads=tuple(facts.reads),
        feeds=tuple(_feeds(evidence, node)),
    )
    match node.kind:
        case "embed":
            largest = sorted(common.effect_by_role.items(), key=lambda item: -abs(item[1]))[:3]
            tokens = ", ".join(f"{role} {effect:+z.2f}" for role, effect in largest if effect)
            return _as(common, node, Label("embedding", f"effect of its tokens in logits: {tokens}"))
        case "mlp":
            neurons = tuple(
                NeuronEvidence(
                    neuron=one.neuron,
                    effect=one.effect,
                    fires_on=_words(observed, one.fires_on),
                    writes=_texts(observed, one.written),
                )
                for one in neurons_at_work(observed, node)
            )
            return _as(common, node, label_mlp(facts, thresholds), neurons=neurons)
        case _:
            row = max(rows, key=lambda row: float(observed.node_effects[row].sum().abs()))
            strongest = observed.graph.writers[row]
            label, head = labels[strongest]
            if strongest == node:
                return _as(common, node, label, head=head)
            label = replace(label, evidence=f"{strongest}: {label.evidence}")
            return _as(common, node, label, head=head, strongest_head=str(strongest))


def _as(common: Component, node: Node, label: Label, **more: object) -> Component:
    return common.model_copy(update={"kind": node.noun, "label": label.name, "evidence": label.evidence, **more})


def _texts(observed: Observation, written: Written) -> TopTokens:
    return TopTokens(up=_words(observed, written.up), down=_words(observed, written.down))


def _words(observed: Observation, ids: Iterable[int]) -> tuple[str, ...]:
    tokenizer = observed.model.tokenizer
    return tuple(str(token) if tokenizer is None else str(tokenizer.decode([token])) for token in ids)


def _number(value: Tensor) -> float | None:
    return None if bool(value.isnan()) else float(value)
