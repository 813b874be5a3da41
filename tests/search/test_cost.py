"""What a running search says of how far it is: seconds of the trials that it predicts, not edges."""

from dataclasses import replace

import pytest
import torch

from subcircuit.graph import Graph, Scope
from subcircuit.search import Acdc, Problem, Progress
from subcircuit.search.cost import Forecast, Pending
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
def test_time_taken_grows_and_is_all_of_the_time_at_the_end(config: Acdc, level: str) -> None:
    model = tiny("llama_gqa")
    graph = Graph.of(model.config, Scope.named(level))
    problem, steps = Problem(model, graph, random_task(model, 2, [6, 5]), metric("kl_divergence")), list[Progress]()
    replace(config, speculation=4).search(problem, steps.append)
    phases = [[step for step in steps if step.phase == phase] for phase in dict.fromkeys(step.phase for step in steps)]
    assert len(phases) == (2 if config.direction == "both" else 1)
    for phase in phases:
        done, shares = [step.done for step in phase], [step.share for step in phase]
        assert done == sorted(done)
        assert all(share is not None and 0 < share <= 1 for share in shares)
        assert shares[-1] == 1


def a_second_each(forecast: Forecast, reader: int, since: float, decisions: int) -> float:
    for second in range(decisions):
        forecast.edges(reader, since + second + 1, 1, 1)
    return since + decisions


def test_every_edge_into_a_live_node_is_still_to_be_tried() -> None:
    """All nodes are live, and a decision takes a second: the time left is the number of edges that are not decided."""
    graph = Graph.of(tiny("llama_gqa").config, Scope("block"))
    logits, into = graph.readers_in[-1][0], graph.edges.sum(0).tolist()
    forecast = Forecast(graph, graph.edges, torch.zeros_like(graph.edges), [False] * len(graph.units))
    now = a_second_each(forecast, logits, 0.0, into[logits])
    forecast.decided(graph.edges[:, logits])
    assert forecast.total(now, Pending(logits, 0)) == pytest.approx(graph.n_edges)


def test_nothing_is_left_where_no_node_is_live() -> None:
    graph = Graph.of(tiny("llama_gqa").config, Scope("block"))
    logits = graph.readers_in[-1][0]
    forecast = Forecast(graph, graph.edges, torch.zeros_like(graph.edges), [False] * len(graph.units))
    now = a_second_each(forecast, logits, 0.0, 100_000)
    forecast.decided(torch.zeros_like(graph.edges[:, logits]))
    assert forecast.total(now, Pending(logits, 0)) == pytest.approx(now, abs=1)


def test_kinds_of_readers_have_costs_of_their_own() -> None:
    """An edge into an MLP takes a second, one into attention ten, lately."""
    graph = Graph.of(tiny("llama_gqa").config, Scope("block"))
    logits, into = graph.readers_in[-1][0], graph.edges.sum(0).tolist()
    forecast = Forecast(graph, graph.edges, torch.zeros_like(graph.edges), [False] * len(graph.units))
    forecast.decided(graph.edges[:, logits])
    now, seconds = 0.0, {"mlp": 1.0, "attention": 10.0, "logits": 1.0}
    kinds = {graph.readers[reader].kind: reader for reader in range(len(graph.readers))}
    for kind, reader in kinds.items():
        for _ in range(2000):
            now += seconds[kind]
            forecast.edges(reader, now, 1, 1)
    left = sum(into[reader] * seconds[graph.readers[reader].kind] for reader in range(len(graph.readers)) if reader != logits)
    assert forecast.total(now, Pending(logits, 0)) - now == pytest.approx(left, rel=0.1)
