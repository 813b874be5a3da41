"""The circuits of a refinement, as the page's slider walks along them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from subcircuit.errors import CircuitFileError
from subcircuit.graph import PATH_FILE, Circuit, Point, RefinePath, Standing, load_path
from subcircuit.graph.file import CIRCUIT_FILE
from subcircuit.report.page.packed import Json, finite, narrow, packed
from subcircuit.report.page.ranking import Ranking

# of what is wrong with a path, which may quote the file
_LONGEST = 120


def read_path(place: Path, circuit: Circuit) -> tuple[RefinePath | None, str | None]:
    """The path beside a circuit and None, or None and why it cannot be used; twice None where there is none.

    Args:
        place: the circuit's directory, or its ``circuit.json``.
        circuit: what is saved there, which a refinement chose from its path.
    """
    directory = place.parent if place.name == CIRCUIT_FILE else place
    file = directory / PATH_FILE
    if not os.path.lexists(file):
        return None, None
    try:
        path = load_path(directory, circuit.graph)
        if not any(point.kept.equal(circuit.kept) for point in path.points):
            raise CircuitFileError(f"{file}: the path of another circuit, for this one is not on it")
        return path, None
    except CircuitFileError as error:
        # the name alone: pages are shown to others
        words = str(error).replace(str(file), PATH_FILE)
        words = words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"
        return None, f"{words}: the slider keeps the strongest edges instead"


def union(path: RefinePath) -> Bool[Tensor, "writer reader"]:
    """Every edge of a circuit at which the slider stops."""
    first, *others = (point.kept for point in path.stops)
    found = first.clone()
    for kept in others:
        found |= kept
    return found


def path_document(path: RefinePath, circuit: Circuit, ranking: Ranking) -> Json:
    """The circuits at which the slider stops, from the smallest to the largest, each with what it does.

    Args:
        circuit: the one that was chosen from the path.
        ranking: holds every edge of them; they are given by their numbers in it.
    """
    numbers = np.full(path.graph.edges.shape, -1, dtype=np.int64)
    numbers[ranking.writers, ranking.readers] = np.arange(len(ranking.writers))
    return {
        "chosen": circuit.n_edges,
        # a smaller circuit may do better on the prompts that judge than the one that reaches the targets
        "holds_chosen": any(point.kept.equal(circuit.kept.cpu()) for point in path.stops),
        "stops": [_stop(point, numbers) for point in path.stops],
    }


def _stop(point: Point, numbers: NDArray[Any]) -> Json:
    edges = np.sort(numbers[point.kept.numpy()])
    return {
        "edges": packed(narrow(edges)),
        "action": point.action,
        "search": _standing(point.search),
        "validation": None if point.validation is None else _standing(point.validation),
    }


def _standing(standing: Standing) -> Json:
    return {"faithfulness": finite(standing.faithfulness), "kl": finite(standing.kl)}
