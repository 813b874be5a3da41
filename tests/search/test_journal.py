"""A search that was stopped anywhere goes on to the bits of one that was not, whatever the method."""

from collections.abc import Callable

import pytest
import torch

from subcircuit.graph import Circuit, Graph, Scope
from subcircuit.search import METHODS, Acdc, Result
from subcircuit.search.journal import Under
from subcircuit.search.zoom import zoom
from tests.problems import random_problem
from tests.tiny_models import tiny


class Memory:
    """A journal that stops the search after so many results."""

    def __init__(self, stop_after: int | None = None):
        self.results: dict[str, bytes] = {}
        self.leaving, self._left = False, stop_after

    def recall(self, key: str) -> bytes | None:
        return self.results.get(key)

    def record(self, key: str, result: bytes) -> None:
        self.results[key] = result
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                raise InterruptedError


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in METHODS if name != "random"])
def test_a_search_that_was_stopped_goes_on_to_the_same_bits(name: str):
    model = tiny("llama")
    graph = Graph.of(model.config, Scope.named("head"))
    problem = random_problem(model, graph, 3, [6, 7, 5], 1, "logit_difference", "resample")
    method = METHODS[name](**{"steps": 7} if name in ("ugs", "edge-pruning", "subnetwork-probing") else {"batch_size": 2})
    goes_on_to_the_same(lambda journal: method.search(problem, journal=Under(journal, "part")))


@pytest.mark.slow
def test_searches_inside_of_others_go_on_to_the_same_bits():
    model, config = tiny("llama"), Acdc(0.05, coarse_to_fine=True)
    blocks = Graph.of(model.config, Scope.named("block"))
    problem, whole = random_problem(model, blocks, 3, [6, 7, 5], 1, "logit_difference", "resample"), Circuit(blocks, blocks.edges)
    goes_on_to_the_same(lambda journal: zoom(problem, whole, "a1", "head", config, None, journal))


def goes_on_to_the_same(search: Callable[[Memory], Result]) -> None:
    """Stopped after its first result, or before its last, a search given these results makes the same."""
    whole = Memory()
    expected = search(whole)
    for after in {1, max(1, len(whole.results) - 1)}:
        stopped = Memory(after)
        with pytest.raises(InterruptedError):
            search(stopped)
        found = search(stopped)
        assert stopped.results == whole.results
        assert torch.equal(_values(found).nan_to_num(9), _values(expected).nan_to_num(9))


def _values(found: Result) -> torch.Tensor:
    return torch.stack([found.circuit.kept, found.scores])
