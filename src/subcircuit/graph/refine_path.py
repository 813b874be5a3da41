"""The circuits of a refinement, one per round, with their losses. A size can be chosen from this path afterwards.

On disk the path is ``path.json``, with the edges of the first circuit and the edges that each round added and removed, so
that hundreds of rounds stay small, and ``path.csv``, with the numbers alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool
from pydantic import ConfigDict, ValidationError
from torch import Tensor

from subcircuit.errors import CircuitFileError, SettingsError, SubcircuitError
from subcircuit.graph.circuit import Circuit, FrozenModel, Record
from subcircuit.graph.file import read_json
from subcircuit.graph.graph import Graph
from subcircuit.io import write_csv, write_json

PATH_FILE = "path.json"
PATH_TABLE = "path.csv"
# more than any real refinement: an untrusted file must not fill the memory with masks
_MOST_CELLS = 1 << 32

Action: TypeAlias = Literal["seed", "grow", "prune"]


@dataclass(frozen=True)
class Standing:
    """Measurements of a circuit on some prompts.

    Args:
        loss: the refinement loss J, which a refinement lowers.
        faithfulness: (L(C) − L(∅)) / (L(M) − L(∅)) of the task's metric.
        kl: mean KL(model ‖ circuit) in nats.
    """

    loss: float
    faithfulness: float
    kl: float

    # files hold exactly these fields; numbers that are not finite cannot be ranked
    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, eq=False)
class Point:
    """A circuit on the path.

    Args:
        action: the round's action.
        kept: the circuit after the round.
        search, validation: measurements on the search prompts and on the validation prompts; None without validation prompts.
    """

    action: Action
    kept: Bool[Tensor, "writer reader"]
    search: Standing
    validation: Standing | None

    @property
    def judged(self) -> Standing:
        """Measurements on the validation prompts if there are any, otherwise on the search prompts."""
        return self.search if self.validation is None else self.validation

    @cached_property
    def n_edges(self) -> int:
        """Edges of the circuit."""
        return int(self.kept.sum())


@dataclass(frozen=True, eq=False)
class RefinePath:
    """The circuits of a refinement, in order.

    Args:
        graph: the graph of all circuits.
        points: the seed first, then one per round. The last is not always the result because rounds can be reverted.
    """

    graph: Graph
    points: tuple[Point, ...]

    def at(self, edges: int) -> Point:
        """The best circuit with at most so many edges, by its loss on the prompts that judge.

        Raises:
            SettingsError: every circuit on the path is larger, or none has so many edges.
        """
        sizes = [point.n_edges for point in self.points]
        if not min(sizes) <= edges <= max(sizes):
            raise SettingsError(
                f"the path has no circuit of {edges:,} edges; its circuits have {min(sizes):,} to {max(sizes):,}. Choose one of "
                f"{', '.join(f'{size:,}' for size in sorted(set(sizes)))}."
            )
        fitting = [point for point in self.points if point.n_edges <= edges]
        return min(fitting, key=lambda point: point.judged.loss)

    @property
    def stops(self) -> tuple[Point, ...]:
        """Every circuit that `at` can return, from the smallest to the largest."""
        points, best, found = self.points, list[int](), list[Point]()
        by_size = sorted(range(len(points)), key=lambda index: points[index].n_edges)
        for _, same in groupby(by_size, key=lambda index: points[index].n_edges):
            # among equally good circuits the first on the path, as in `at`
            best = [min([*same, *best], key=lambda index: (points[index].judged.loss, index))]
            found.append(points[best[0]])
        return tuple(dict.fromkeys(found))

    def circuit(self, point: Point, record: Record | None = None) -> Circuit:
        """One of the circuits, without scores.

        Args:
            record: the record of the circuit that was chosen first; its results are dropped because they belong to that circuit.
        """
        return Circuit(self.graph, point.kept, record=record and record.model_copy(update={"results": {}, "timings": {}}))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The path's numbers, one row per round."""
        for number, point in enumerate(self.points):
            row: dict[str, Any] = {"round": number, "action": point.action, "edges": point.n_edges}
            for name, standing in (("search", point.search), ("validation", point.validation)):
                values = (None, None, None) if standing is None else (standing.loss, standing.faithfulness, standing.kl)
                row |= dict(zip((f"{name}_loss", f"{name}_faithfulness", f"{name}_kl"), values, strict=True))
            yield row


class _Round(FrozenModel):
    action: Action
    added: list[str]
    removed: list[str]
    search: Standing
    validation: Standing | None


class _PathFile(FrozenModel):
    format: Literal[1] = 1
    rounds: list[_Round]


def save_path(path: RefinePath, directory: Path) -> None:
    """Write ``path.json`` and ``path.csv`` into the circuit's directory; each appears whole or not at all."""
    before, rounds = torch.zeros_like(path.graph.edges), list[_Round]()
    for point in path.points:
        added, removed = (Circuit(path.graph, mask).names for mask in (point.kept & ~before, before & ~point.kept))
        rounds.append(_Round(action=point.action, added=added, removed=removed, search=point.search, validation=point.validation))
        before = point.kept
    write_json(directory / PATH_FILE, _PathFile(rounds=rounds).model_dump(mode="json"), allow_nan=True)
    rows = list(path.rows())
    write_csv(directory / PATH_TABLE, rows[0], (row.values() for row in rows))


def load_path(directory: Path, graph: Graph) -> RefinePath:
    """The refinement path in a circuit's directory.

    Raises:
        CircuitFileError: the file is missing, damaged, of a newer format, or does not match the circuit's graph.
    """
    file = directory / PATH_FILE
    content = read_json(file, "refinement path", "`subcircuit refine` and `discover --target` write one", 1)
    try:
        rounds = _PathFile.model_validate(content).rounds
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CircuitFileError(f"{file}: not a refinement path of format 1: {where}: {first['msg']}") from None
    if not rounds:
        raise CircuitFileError(f"{file}: the path has no rounds")
    if len(rounds) * graph.edges.numel() > _MOST_CELLS:
        raise CircuitFileError(f"{file}: {len(rounds):,} rounds are more than any refinement has")
    kept, points = torch.zeros_like(graph.edges), list[Point]()
    for number, row in enumerate(rounds):
        kept = _after(kept, row, graph, f"{file}: round {number}")
        points.append(Point(row.action, kept, row.search, row.validation))
    return RefinePath(graph, tuple(points))


def _after(kept: Bool[Tensor, "writer reader"], row: _Round, graph: Graph, where: str) -> Bool[Tensor, "writer reader"]:
    kept = kept.clone()
    for names, there in ((row.added, True), (row.removed, False)):
        for name in names:
            try:
                cell = graph.find(name)
            except SubcircuitError as error:
                raise CircuitFileError(f"{where}: {error}") from None
            if bool(kept[cell]) == there:
                raise CircuitFileError(f"{where} {'adds' if there else 'removes'} {name} twice")
            kept[cell] = there
    return kept
