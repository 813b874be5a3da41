"""Stability selection: halves share no prompt, shares are counts of independent searches, and noise stays below its bound."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import subcircuit as sc
from subcircuit.errors import SettingsError
from subcircuit.search import OnProgress, Problem
from subcircuit.search.journal import Journal
from subcircuit.search.method import ScoringMethod


def problem(examples: int = 9) -> Problem:
    model = sc.load_model("tiny-induction-ioi")
    return Problem.of(model, sc.load_task("induction", model, examples=examples), "logit_difference", scope="head")


@dataclass(frozen=True)
class Noise(ScoringMethod):
    """Scores that depend on the prompts and on nothing in the model."""

    name: ClassVar[str] = "noise"
    salt: int = 0
    seen: ClassVar[list[set[tuple[int, ...]]]] = []

    def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
        self.seen.append({tuple(ids) for ids in problem.task.clean.ids.tolist()})
        seed = int(problem.task.digest[:12], 16) + self.salt
        return torch.rand(problem.graph.edges.shape, generator=torch.Generator().manual_seed(seed))


def test_halves_of_a_pair_share_no_prompt_and_pairs_differ() -> None:
    Noise.seen.clear()
    sc.stability_selection(problem(9), Noise(), pairs=3, selection=sc.TopN(5, "signed"))
    halves = list(Noise.seen)
    assert [len(half) for half in halves] == [4] * 6
    assert all(not first & second for first, second in zip(halves[::2], halves[1::2], strict=True))
    assert len({frozenset(half) for half in halves}) == 6


def test_shares_are_counts_of_the_searches_on_the_halves() -> None:
    whole, selection = problem(8), sc.TopN(20, "absolute")
    made = sc.stability_selection(whole, sc.Eap(), pairs=2, consensus=0.75, selection=selection, seed=5)
    generator, kept = torch.Generator().manual_seed(5), list[Tensor]()
    for _ in range(2):
        order = torch.randperm(8, generator=generator).tolist()
        for half in (order[:4], order[4:]):
            pairs = tuple(sorted(half))
            part = replace(whole, task=whole.task.where(torch.tensor([index in pairs for index in range(8)])))
            kept.append(sc.Eap().search(part).select(selection).prune().kept)
    share = torch.stack(kept).double().mean(0)
    assert torch.equal(made.agreement.frequency, share)
    assert torch.equal(made.selected, share >= 0.75)
    expected = sc.Circuit(whole.graph, (share >= 0.75) & whole.graph.edges).prune()
    assert made.circuit.names == expected.names
    assert made.mean_edges == sum(int(one.sum()) for one in kept) / 4
    assert made.by_chance == pytest.approx(made.mean_edges**2 / (0.5 * whole.graph.n_edges))


def test_searches_that_agree_have_themselves_as_consensus() -> None:
    whole = problem(8)

    @dataclass(frozen=True)
    class Same(Noise):
        name: ClassVar[str] = "same"

        def scores(self, problem: Problem, progress: OnProgress | None, journal: Journal) -> Float[Tensor, "writer reader"]:
            return torch.rand(problem.graph.edges.shape, generator=torch.Generator().manual_seed(1))

    made = sc.stability_selection(whole, Same(), pairs=2, selection=sc.TopN(40, "signed"))
    assert made.circuit.names == made.circuits[0].names
    assert made.agreement.mean_jaccard == 1


def test_noise_is_kept_no_more_often_than_the_bound_says() -> None:
    whole, found, bounds = problem(8), list[int](), list[float]()
    for salt in range(12):
        made = sc.stability_selection(
            whole, Noise(salt), pairs=2, consensus=0.75, selection=sc.TopN(whole.graph.n_edges // 2, "signed"), seed=salt
        )
        found.append(int(made.selected.sum()))
        bounds.append(made.by_chance)
    assert 0 < sum(found) <= sum(bounds)


@pytest.mark.parametrize(
    ("examples", "settings", "words"),
    [
        (7, {}, "at least 8 search prompts"),
        (8, {"pairs": 0}, "at least 1"),
        (8, {"consensus": 0.5}, "above 0.5"),
        (8, {"consensus": 1.1}, "at most 1"),
    ],
)
def test_too_little_to_select_by_is_refused(examples: int, settings: dict[str, float], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        sc.stability_selection(problem(examples), sc.Eap(), **settings)  # pyright: ignore[reportArgumentType]
