"""The circuits of a refinement: which sizes can be taken from it, and what is refused."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subcircuit.errors import CircuitFileError
from subcircuit.graph import Graph, Point, RefinePath, Scope, Standing, load_path, save_path
from tests.problems import random_kept
from tests.tiny_models import tiny

GRAPH = Graph.of(tiny("attention_only").config, Scope("block"))


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from((0.0, 1.0, 2.0)), st.booleans()), min_size=1, max_size=8))
def test_the_stops_are_all_circuits_that_some_number_of_edges_gives(rounds: list[tuple[float, float, bool]]) -> None:
    points = [
        Point(
            "grow", random_kept(GRAPH.edges, seed, share), Standing(loss, 0.5, 1.0), Standing(-loss, 0.5, 1.0) if judged else None
        )
        for seed, (share, loss, judged) in enumerate(rounds)
    ]
    path = RefinePath(GRAPH, tuple(points))
    sizes = [point.n_edges for point in points]
    given_by_size = [path.at(size) for size in range(min(sizes), max(sizes) + 1)]
    assert set(path.stops) == set(given_by_size)
    stops = [point.n_edges for point in path.stops]
    assert stops == sorted(set(stops))


def test_more_rounds_than_a_refinement_can_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standing = Standing(0.1, 0.9, 0.2)
    save_path(RefinePath(GRAPH, (Point("seed", torch.zeros_like(GRAPH.edges), standing, None),) * 3), tmp_path)
    assert len(load_path(tmp_path, GRAPH).points) == 3
    monkeypatch.setattr("subcircuit.graph.refine_path._MOST_CELLS", 2 * GRAPH.edges.numel())
    with pytest.raises(CircuitFileError, match="more than any refinement has"):
        load_path(tmp_path, GRAPH)
