"""Explanation of a circuit: what each of its nodes reads, does and feeds, and a label for it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from math import isnan

import torch

from subcircuit.entry import entry
from subcircuit.errors import GraphError, NumericalError, SettingsError
from subcircuit.explain.explanation import Component, Explanation, HeadEvidence, NeuronEvidence, Route, TopTokens
from subcircuit.explain.heads import Looks, Mechanism, carried, growth, looks, mechanisms
from subcircuit.explain.labels import Facts, Label, Thresholds, label_head, label_mlp
from subcircuit.explain.observe import STEPS, Observation, Written, neurons_at_work, observe, written
from subcircuit.graph import (
    MLP,
    Attention,
    Circuit,
    Embed,
    Expert,
    Graph,
    Head,
    HeadInput,
    Logits,
    Neuron,
    Reader,
    RouterInput,
    Writer,
    coarsen,
)
from subcircuit.model.transformer import Transformer
from subcircuit.search import OnRound
from subcircuit.search.attribution import Rounds
from subcircuit.tasks import Task, check_same_vocabulary
from subcircuit.tasks.roles import REST

_TOP = 5
_NOTHING = 1e-4
_PASSES = 3  # movers, then who feeds them and backs them up, then who feeds those

Node = Writer | Logits


@entry
def explain_circuit(
    model: Transformer,
    circuit: Circuit,
    task: Task,
    thresholds: Thresholds | None = None,
    on_step: OnRound | None = None,
) -> Explanation:
    """What each component of a circuit does on a task's prompts, with a label for it or "unclear".

    What is observed is the whole model, not the circuit alone: a head's attention in the model is what its label is about.
    The circuit says which nodes and edges are told of.

    Args:
        model: in which the circuit was found.
        circuit: at least one edge; places of its nodes are joined, what a component does is told by role anyway.
        task: prompts with their counterparts; roles make the explanation a better one.
        thresholds: at which numbers labels are given.
        on_step: called after every part of the observation, which takes most of the time, and when all is done.

    Raises:
        GraphError: the circuit is of another model, by its graph or by the config that it records.
        PromptError: the prompts were made for a model with another tokenizer.
        SettingsError: it has no edges, or its nodes are too many to observe on these prompts.
        NumericalError: NaN or infinity in the model's run.
    """
    if unlike := circuit.graph.unlike_model(model.config):
        raise GraphError(f"the circuit is not of {model.name}; their graphs differ in {unlike}")
    if circuit.record is not None and circuit.record.model.config != model.config.digest:
        raise GraphError(
            f"the circuit was found in {circuit.record.model.name}, and {model.name} is another model: configs differ"
        )
    check_same_vocabulary(circuit, task)
    if not circuit.n_edges:
        raise SettingsError("the circuit has no edges: there is nothing to explain")
    thresholds, graph = thresholds or Thresholds(), circuit.graph
    circuit = coarsen(circuit, graph.unplaced) if graph.shape.places else circuit
    # a node takes about as long as a unit's gradients
    rounds = Rounds(STEPS * len(circuit.graph.units) + len(circuit.nodes), on_step, "parts")
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
    places = {name: float((observed.rows(name) * positions).sum() / observed.rows(name).sum()) for name in observed.roles.names}
    present = [name for name, place in places.items() if not isnan(place)]
    return tuple(sorted(present, key=lambda name: (name == REST, places[name])))


def rows_of(graph: Graph, node: Node) -> list[int]:
    """The writers of a graph with heads apart that a node of a coarser one stands for."""
    match node:
        case Logits():
            return []
        case Attention(layer):
            return [graph.writer_index[Head(layer, head)] for head in range(graph.shape.n_heads)]
        case _:
            return [graph.writer_index[node]]


def _columns(graph: Graph, circuit: Circuit, reader: Reader) -> list[int]:
    """The readers of a graph with queries, keys and values apart that a reader of the circuit's stands for."""
    if isinstance(reader, MLP | Neuron | Expert | RouterInput | Logits):
        return [graph.reader_index[reader]]
    if isinstance(reader, HeadInput) and reader.part is not None:
        heads = [writer.head for w in circuit.graph.owners(reader) if isinstance(writer := circuit.graph.writers[w], Head)]
        return [graph.reader_index[HeadInput(reader.layer, head, reader.part)] for head in heads]
    heads = range(graph.shape.n_heads) if isinstance(reader, Attention) else [reader.head]
    return [graph.reader_index[HeadInput(reader.layer, head, part)] for head, part in product(heads, ("q", "k", "v"))]


def _routes(observed: Observation, circuit: Circuit) -> list[tuple[Node, Node, Route]]:
    """Every edge of the circuit, as (from, to, with its effect); shares are of all edges into the same node."""
    found: list[tuple[Node, Node, str, float]] = []
    for edge in circuit.edges:
        rows, columns = rows_of(observed.graph, edge.writer), _columns(observed.graph, circuit, edge.reader)
        effects = observed.edge_effects[rows][:, columns].sum(0)
        part = _composition(observed.graph, edge.reader, columns, effects.tolist())
        # a key or value that heads share is an input of each of them
        for node in _nodes_of(circuit, edge.reader):
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


def _nodes_of(circuit: Circuit, reader: Reader) -> list[Node]:
    return [reader] if isinstance(reader, Logits) else [circuit.graph.writers[w] for w in circuit.graph.owners(reader)]


def _composition(graph: Graph, reader: Reader, columns: Sequence[int], effects: Sequence[float]) -> str:
    """Into what an edge goes; where the scope does not tell a head's inputs apart, the one with most of the effect."""
    match reader:
        case Logits():
            return "logits"
        case MLP() | Neuron() | Expert() | RouterInput():
            return "MLP"
        case _:
            by_part: dict[str, float] = {}
            for column, effect in zip(columns, effects, strict=True):
                fine = graph.readers[column]
                assert isinstance(fine, HeadInput) and fine.part is not None
                by_part[fine.part] = by_part.get(fine.part, 0.0) + effect
            return max(by_part, key=lambda part: abs(by_part[part])).upper()


@dataclass(frozen=True)
class _Evidence:
    """What is known before labels are given.

    Args:
        heads: of every head of the circuit, those within blocks included.
        routes: see ``_routes``.
    """

    heads: Mapping[Head, HeadEvidence]
    routes: Sequence[tuple[Node, Node, Route]]


def _evidence(observed: Observation, circuit: Circuit) -> _Evidence:
    seen, tokens = looks(observed), carried(observed, _TOP)
    heads: dict[Head, HeadEvidence] = {}
    by_layer: dict[int, list[int]] = {}
    for head in _heads_in(observed.graph, circuit):
        by_layer.setdefault(head.layer, []).append(head.head)
    for layer, members in by_layer.items():
        for head, by_weights in zip(members, mechanisms(observed.model, layer, members, tokens), strict=True):
            heads[Head(layer, head)] = _head_evidence(observed, seen, Head(layer, head), by_weights)
    return _Evidence(heads, _routes(observed, circuit))


def _heads_in(graph: Graph, circuit: Circuit) -> list[Head]:
    rows = sorted({row for node in circuit.nodes for row in rows_of(graph, node)})
    return [writer for row in rows if isinstance(writer := graph.writers[row], Head)]


def _head_evidence(observed: Observation, seen: Looks, head: Head, by_weights: Mechanism) -> HeadEvidence:
    names, matrix = observed.roles.names, seen.by_role[head.layer][head.head]
    here = names.index(acts_at(observed, [observed.graph.writer_index[head]]))
    return HeadEvidence(
        attention={
            name: {key: float(mass) for key, mass in zip(names, row, strict=True)}
            for name, row in zip(names, matrix, strict=True)
            if not isnan(float(row[0]))
        },
        looks={kind: _number(masses[head.head, here]) for kind, masses in seen.at_role[head.layer].items()},
        random=None
        if seen.random is None
        else {kind: _number(masses[head.head]) for kind, masses in seen.random[head.layer].items()},
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
) -> dict[Head, tuple[Label, HeadEvidence]]:
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
    rows, size = rows_of(observed.graph, node), abs(observed.difference) or 1.0
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
    labels: Mapping[Head, tuple[Label, HeadEvidence]],
    thresholds: Thresholds,
) -> Component:
    if isinstance(node, Logits):
        found = Label("logits", f"logit difference {observed.difference:+z.2f}")
        return Component(kind="logits", label=found.name, evidence=found.evidence, reads=tuple(_reads(evidence, node)))
    rows, facts = rows_of(observed.graph, node), _facts(observed, evidence, node, None)
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
    match node:
        case Head():
            label, head = labels[node]
            return _as(common, "head", label, head=head)
        case Attention(layer):
            strongest = max(
                (head for head in labels if head.layer == layer),
                key=lambda head: float(observed.node_effects[observed.graph.writer_index[head]].sum().abs()),
            )
            label, head = labels[strongest]
            return _as(
                common,
                "attention block",
                replace(label, evidence=f"{strongest}: {label.evidence}"),
                head=head,
                strongest_head=str(strongest),
            )
        case Expert():
            return _as(common, "expert", label_mlp(facts, thresholds))
        case MLP(layer) | Neuron(layer):
            only = node.neuron if isinstance(node, Neuron) else None
            kind = "MLP" if only is None else "neuron"
            neurons = tuple(
                NeuronEvidence(
                    neuron=one.neuron,
                    effect=one.effect,
                    fires_on=_words(observed, one.fires_on),
                    writes=_texts(observed, one.written),
                )
                for one in neurons_at_work(observed, layer, only=only)
            )
            return _as(common, kind, label_mlp(facts, thresholds), neurons=neurons)
        case Embed():
            largest = sorted(common.effect_by_role.items(), key=lambda item: -abs(item[1]))[:3]
            tokens = ", ".join(f"{role} {effect:+z.2f}" for role, effect in largest if effect)
            return _as(common, "embedding", Label("embedding", f"effect of its tokens in logits: {tokens}"))


def _as(common: Component, kind: str, label: Label, **more: object) -> Component:
    return common.model_copy(update={"kind": kind, "label": label.name, "evidence": label.evidence, **more})


def _texts(observed: Observation, written: Written) -> TopTokens:
    return TopTokens(up=_words(observed, written.up), down=_words(observed, written.down))


def _words(observed: Observation, ids: Iterable[int]) -> tuple[str, ...]:
    tokenizer = observed.model.tokenizer
    return tuple(str(token) if tokenizer is None else str(tokenizer.decode([token])) for token in ids)


def _number(value: torch.Tensor) -> float | None:
    return None if bool(value.isnan()) else float(value)
