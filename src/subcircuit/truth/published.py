"""Published circuits of trained models: heads by group, and the rules that turn groups into edges.

A paper names heads and the groups that they read from; a search finds edges. A convention connects the two: each circuit comes
with rules ``from groups → to groups, into these parts of a head``, which stand for all existing edges between their nodes. A
rule may also name ``embed``, ``logits``, ``mlps`` (all of them) and ``heads`` (all heads of all groups). The data are in
``published/*.toml``, by name, with model, ablation and source.

A published circuit is weaker evidence than a compiled or planted one: it is only as complete as the study.

A case of a published circuit is the trained model, if it is available, with the built-in task of the study.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from subcircuit.engine.ablation import Ablation, ablation_named
from subcircuit.errors import GraphError, SettingsError, UnknownNameError
from subcircuit.graph import Circuit, Edge, Embed, Graph, Head, HeadInput, Logits, Reader, Writer, parse_writer
from subcircuit.tasks import competence, load_task, shortfall
from subcircuit.truth.case import Case
from subcircuit.units.nodes import HeadPart

_PARTS: tuple[HeadPart, ...] = ("q", "k", "v")


@dataclass(frozen=True)
class EdgeRule:
    """Edges from all nodes of some groups to all nodes of others.

    Args:
        parts: inputs (queries, keys, values) of the heads among ``into``.
    """

    out_of: tuple[str, ...]
    into: tuple[str, ...]
    parts: tuple[HeadPart, ...] = _PARTS


@dataclass(frozen=True)
class PublishedCircuit:
    """A published circuit of a trained model.

    Args:
        model: the model of the study; its weights do not come with the package.
        task: the built-in task that shows the behaviour.
        ablation: the ablation of the study.
        sizes: layers and heads of the model and whether it has MLPs; None for a mechanism of any model.
        groups: names of heads and MLPs by function; the caller fills empty groups.
    """

    name: str
    description: str
    model: str
    task: str
    ablation: Ablation
    source: str
    sizes: tuple[int, int, bool] | None
    groups: Mapping[str, tuple[str, ...]]
    rules: tuple[EdgeRule, ...]

    def circuit(self, graph: Graph, groups: Mapping[str, Sequence[str]] | None = None) -> Circuit:
        """The true edges in a graph of the model, at scope ``qkv`` with an input per query head and one embedding.

        Args:
            groups: heads of this model, instead of those of the publication.

        Raises:
            GraphError: the graph is of another model or scope, or a group is unknown or empty.
            UnknownNameError: a node of a group is not in the graph.
        """
        self._check(graph)
        filled: dict[str, tuple[str, ...]] = {**self.groups, **{name: tuple(nodes) for name, nodes in (groups or {}).items()}}
        wrong = sorted(name for name in filled if name not in self.groups or not filled[name])
        if wrong:
            known = ", ".join(self.groups)
            raise GraphError(
                f"{self.name}: group {wrong[0]} is {'empty' if wrong[0] in self.groups else 'unknown'}. Groups: {known}."
            )
        nodes = _nodes(graph, filled)
        edges = (
            Edge(writer, reader)
            for rule in self.rules
            for writer in _all(nodes, rule.out_of)
            for node in _all(nodes, rule.into)
            for reader in _readers(node, rule.parts)
            if not isinstance(writer, Logits) and graph.edges[graph.writer_index[writer], graph.reader_index[reader]]
        )
        return Circuit.of_edges(graph, edges)

    def _check(self, graph: Graph) -> None:
        shape, scope = graph.shape, graph.scope
        if self.sizes not in (None, (shape.n_layers, shape.n_heads, shape.mlps)):
            layers, heads, mlps = self.sizes or (0, 0, False)
            raise GraphError(
                f"{self.name} was found in {self.model}, {layers} layers of {heads} heads {'with' if mlps else 'without'} MLPs; "
                f"this graph has {shape.n_layers} of {shape.n_heads}, {'with' if shape.mlps else 'without'} MLPs."
            )
        if scope.level != "qkv" or scope.kv != "per_query_head" or scope.split_embeddings:
            raise GraphError(
                f"{self.name} is known at scope qkv with keys and values per query head and one embedding, not at {scope}."
            )


def published_circuits() -> tuple[PublishedCircuit, ...]:
    """All published circuits, by name."""
    folder = files("subcircuit.truth") / "published"
    found = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return tuple(_parse(file.name.removesuffix(".toml"), tomllib.loads(file.read_text(encoding="utf-8"))) for file in found)


def published_circuit(name: str) -> PublishedCircuit:
    """The published circuit of this name.

    Raises:
        UnknownNameError: there is none; the nearest names are suggested.
    """
    known = {circuit.name: circuit for circuit in published_circuits()}
    if name not in known:
        raise UnknownNameError("published circuit", name, tuple(known))
    return known[name]


def with_whole_inputs(circuit: Circuit) -> int:
    """Edges as ACDC's authors count them: one more for each query, key or value input that has any."""
    heads = [reader.column is not None for reader in circuit.graph.readers]
    return circuit.n_edges + int(circuit.kept.any(0)[heads].sum())


def _nodes(graph: Graph, groups: Mapping[str, Sequence[str]]) -> dict[str, list[Writer | Logits]]:
    nodes: dict[str, list[Writer | Logits]] = {name: [parse_writer(node) for node in members] for name, members in groups.items()}
    for node in (node for members in nodes.values() for node in members):
        if node not in graph.writer_index:
            raise UnknownNameError("node", str(node), [str(writer) for writer in graph.writers])
    heads: list[Writer | Logits] = [node for members in nodes.values() for node in members if node.column is not None]
    mlps: list[Writer | Logits] = [writer for writer in graph.writers if writer.kind == "mlp"]
    return {**nodes, "heads": heads, "mlps": mlps, "embed": [Embed()], "logits": [Logits()]}


def _all(nodes: Mapping[str, list[Writer | Logits]], groups: Sequence[str]) -> list[Writer | Logits]:
    return [node for group in groups for node in nodes[group]]


def _readers(node: Writer | Logits, parts: Sequence[HeadPart]) -> list[Reader]:
    match node:
        case Head(layer, head):
            return [HeadInput(layer, head, part) for part in parts]
        case Embed():
            return []
        case _:
            return [node]


def _parse(name: str, content: dict[str, Any]) -> PublishedCircuit:
    return PublishedCircuit(
        name,
        content["description"],
        content["model"],
        content["task"],
        ablation_named(content["ablation"]),
        content["source"],
        (content["layers"], content["heads"], content["mlps"]) if "layers" in content else None,
        {group: tuple(nodes) for group, nodes in content["groups"].items()},
        tuple(
            EdgeRule(tuple(rule["from"]), tuple(rule["to"]), tuple(part for part in _PARTS if part in rule.get("parts", "qkv")))
            for rule in content["rules"]
        ),
    )


@dataclass(frozen=True)
class Setting:
    """Settings that a published circuit leaves open.

    Args:
        model: name or path of the model; None is its published name.
        examples: number of pairs of prompts.
        seed: random seed for the prompts.
    """

    model: str | None = None
    examples: int = 32
    seed: int = 0


def published_names() -> tuple[str, ...]:
    """Names of the published circuits whose heads are known; the other circuits belong to no particular model."""
    return tuple(circuit.name for circuit in published_circuits() if circuit.sizes is not None)


def published_case(published: PublishedCircuit, ablation: Ablation, setting: Setting | None = None) -> Case:
    """The case of a published circuit under an ablation.

    The circuit is the same under every ablation, as in the authors' comparisons. It holds all parts that can replace each
    other, such as backup name movers, and all of them count.

    Raises:
        SettingsError: its heads are not known, or the model does not do the task.
        ModelError, UnknownNameError: the model cannot be loaded.
        GraphError: the model is not that of the study.
        PromptError: its tokenizer does not suit the task.
    """
    if published.sizes is None:
        raise SettingsError(f"{published.name} names no heads: choose from {', '.join(published_names())}")
    setting = setting or Setting()
    # imported here, because it imports transformers, which only loading needs
    from subcircuit.model.load import load_model

    model = load_model(setting.model or published.model)
    circuit = published.circuit(Graph.of(model.config))
    task = load_task(published.task, model, examples=setting.examples, seed=setting.seed)
    lacking = shortfall(model, task, competence(model, task))
    if lacking is not None:
        raise SettingsError(lacking)
    return Case(published.name, published.description, model, task, ablation, circuit, redundant=False, source=published.source)
