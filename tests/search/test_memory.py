"""Where memory does not suffice, searches go on in smaller batches and find the same."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from subcircuit.engine import last_stream
from subcircuit.engine.exact import Engine
from subcircuit.engine.memory import ShortOfMemory, is_out_of_memory
from subcircuit.errors import ShortOfMemoryError
from subcircuit.graph import Graph, Scope
from subcircuit.search import METHODS, Eap, attribution, batches, exact
from subcircuit.search.masks import Batch, MaskedLoss
from tests.problems import random_problem
from tests.tiny_models import tiny

# queries, keys and values are tried whole first
SEARCHES = (("acdc", "qkv"), ("exact", "head"), ("eap", "head"), ("eap-ig-inputs", "head"))


def short_of(most: int, really: Callable[..., Any], size: Callable[..., int]) -> Callable[..., Any]:
    """A function on a machine whose memory holds so much of its work."""

    def limited(*given: Any, **named: Any) -> Any:
        if size(*given, **named) > most:
            raise torch.OutOfMemoryError("injected")
        return really(*given, **named)

    return limited


def shrink_memory(patch: pytest.MonkeyPatch, examples: int, trials: int) -> None:
    length = lambda problem, examples, by_batch: examples.stop - examples.start  # noqa: E731
    patch.setattr(attribution, "_probe", short_of(examples, attribution._probe, length))
    patch.setattr(batches, "clean_run", short_of(examples, batches.clean_run, lambda model, graph, clean, *rest: len(clean)))
    patch.setattr(exact, "try_singly", short_of(trials, exact.try_singly, lambda engine, reader, writers: len(writers)))
    patch.setattr(Engine, "try_edges", short_of(trials, Engine.try_edges, lambda engine, visit, counts: len(counts)))
    patch.setattr(Engine, "try_readers", short_of(trials, Engine.try_readers, lambda engine, groups: len(groups)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "level"), SEARCHES)
def test_a_search_that_runs_out_of_memory_finds_the_same(name: str, level: str, monkeypatch: pytest.MonkeyPatch):
    model, method = tiny("gpt2", 0, torch.float64), METHODS[name]()
    graph = Graph.of(model.config, Scope.named(level))
    problem = random_problem(model, graph, 3, [6, 7, 5, 6, 7], 1, "logit_difference", "resample")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = method.search(problem)
    shrink_memory(monkeypatch, 2, 3)
    with pytest.warns(ShortOfMemory, match="smaller batches"):
        found = method.search(problem)
    if method.ranks:
        torch.testing.assert_close(found.scores, whole.scores, atol=1e-7, rtol=1e-6, equal_nan=True)
    else:
        assert torch.equal(found.circuit.kept, whole.circuit.kept)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["subnetwork-probing", "edge-pruning", "ugs"])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_descent_that_runs_out_of_memory_goes_on_with_fewer_examples(
    name: str, batch_size: int | None, monkeypatch: pytest.MonkeyPatch
):
    model, method = tiny("gpt2", 0, torch.float64), replace(METHODS[name](), steps=4)
    problem = random_problem(model, Graph.of(model.config), 3, [6, 7, 5, 6, 7], 1, "kl_divergence", "mean")
    whole = method.search(problem)
    asked: list[int] = []

    def size(loss: MaskedLoss, batch: Batch, *given: object) -> int:
        asked.append(len(batch.tokens))
        return len(batch.tokens)

    monkeypatch.setattr(MaskedLoss, "_loss", short_of(2, MaskedLoss._loss, size))
    with pytest.warns(ShortOfMemory, match="smaller batches"):
        found = replace(method, batch_size=batch_size).search(problem)
    torch.testing.assert_close(found.scores, whole.scores, atol=1e-7, rtol=1e-6, equal_nan=True)
    # what did not fit once is not tried again
    assert max(asked[len(asked) // 2 :]) == 2


def test_examples_that_do_not_fit_together_are_not_held(monkeypatch: pytest.MonkeyPatch):
    model = tiny("gpt2", 0, torch.float64)
    graph = Graph.of(model.config)
    problem = random_problem(model, graph, 3, [6, 7, 5], 1, "kl_divergence", "mean")
    loss, mask = MaskedLoss.of(problem, None, last_stream), graph.edges.double()[None].requires_grad_()
    whole = loss.backward(mask)
    assert loss.held is not None
    monkeypatch.setattr(MaskedLoss, "_loss", short_of(2, MaskedLoss._loss, lambda loss, batch, *given: len(batch.tokens)))
    with pytest.warns(ShortOfMemory, match="smaller batches"):
        assert loss.backward(mask) == pytest.approx(whole)
    assert loss.held is None


def test_what_does_not_fit_in_any_part_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch):
    model, method = tiny("gpt2"), Eap()
    problem = random_problem(model, Graph.of(model.config), 3, [6, 7, 5], 1, "logit_difference", "resample")
    shrink_memory(monkeypatch, 0, 0)
    with pytest.raises(ShortOfMemoryError, match="bfloat16"):
        method.search(problem)


def test_what_the_allocator_says_is_understood():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 45)
    assert is_out_of_memory(raised.value)
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
