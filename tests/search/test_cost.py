"""What a search says of how far it is: shares of the work, however it is told apart from edges."""

from dataclasses import replace

import pytest

from subcircuit.graph import Graph, Scope
from subcircuit.search import Acdc, Problem, Step
from subcircuit.search.zoom import zoom
from subcircuit.tasks import metric
from tests.problems import random_task
from tests.tiny_models import tiny


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        Acdc(0.01),
        Acdc(0.0),
        Acdc(10.0),
        Acdc(0.01, whole_input=False),
        Acdc(0.01, coarse_to_fine=True),
        Acdc(0.01, direction="both"),
        Acdc(0.01, direction="denoising"),
    ],
)
@pytest.mark.parametrize("level", ["qkv", "block"])
def test_the_share_of_the_work_grows_from_nothing_to_all(config: Acdc, level: str) -> None:
    model = tiny("llama_gqa")
    graph = Graph.of(model.config, Scope.named(level))
    problem, steps = Problem(model, graph, random_task(model, 2, [6, 5]), metric("kl_divergence")), list[Step]()
    replace(config, speculation=4).search(problem, steps.append)
    shares, work = [step.share for step in steps], [step.work for step in steps]
    assert shares == sorted(shares)
    assert work == sorted(work)
    assert 0 <= shares[0] < 0.5
    assert shares[-1] == pytest.approx(1)
    assert steps[-1].done == steps[-1].total


@pytest.mark.slow
def test_looking_into_one_node_counts_its_edges_alone() -> None:
    model = tiny("llama_gqa")
    graph = Graph.of(model.config, Scope("block"))
    problem, steps = Problem(model, graph, random_task(model, 2, [6, 5]), metric("kl_divergence")), list[Step]()
    found = Acdc(0.0).search(problem).circuit
    zoom(problem, found, "a0", "qkv", Acdc(0.0), steps.append)
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
