"""The smallest part of a circuit whose removal takes a behaviour below a target.

With the parts S removed, s(S) is the remaining share of the behaviour and r_t(S) that of each retained task t (``parts.py``).
The distance to the target, and the damage to other behaviour, are

    way(S)    = max(0, s − target)
    damage(S) = Σ_t max(0, 1 − r_t) + max(0, −target − s)        to turn a behaviour round is not to remove it

A step removes the parts that raise −way(S) − weight · damage(S) most, measured exactly. Steps that make way and keep every
retained task at its ``floor`` come before all others. Gradients choose the parts to measure,

    s(S ∪ p) ≈ s(S) − ∂s/∂kept_p,        r_t(S ∪ p) ≈ r_t(S) − ∂r_t/∂kept_p        at S itself,

so that a part that only begins to matter when others are gone (a backup head) is seen as soon as it does. Nodes are measured
one by one, ``width`` of them. Edges are too many for that: the best-ranked 1, 2, 4, 8, … are measured, up to as many as make a
quarter of the way. Where no node of the first ``width`` makes way, the next are measured, and so on to the last.

Then unneeded parts are put back, in halves, quarters, … down to single parts, as long as the target holds and no damage is
added. The result is minimal in that no single part can be put back; it need not be the smallest of all.

Deterministic: ties go to the earlier part. Cost: a step takes a forward and a backward pass and ``width`` forward passes over
the prompts of all tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from time import perf_counter
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.edit.parts import Parts, Probe
from subcircuit.errors import EditError, SettingsError
from subcircuit.search import OnProgress
from subcircuit.search.progress import ProgressCounter

_ENOUGH = 0.25  # share of the way that a group of edges has to make
_NOTICEABLE = 0.002  # a step that makes less of the way is none
_ROUNDING = 1e-6


@dataclass(frozen=True)
class RemovalSearch:
    """Settings of the search.

    Args:
        target: largest share of the behaviour that may remain.
        floor: share of each retained task that must remain, if possible.
        weight: weight of damage relative to way.
        width: number of parts measured in one step.
    """

    target: float = 0.1
    floor: float = 0.9
    weight: float = 1.0
    width: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.target < 1:
            raise SettingsError(
                f"target is {self.target}: it is the largest share of the capability that may be left, at least 0 and less than 1"
            )
        if not 0 <= self.floor <= 1:
            raise SettingsError(
                f"floor is {self.floor}: it is the smallest share of each retained task that must stay, from 0 to 1"
            )
        if not (isfinite(self.weight) and self.weight >= 0):
            raise SettingsError(f"weight is {self.weight}: it must be at least 0")
        if self.width < 1:
            raise SettingsError(f"width is {self.width}: it must be at least 1")


@dataclass(frozen=True)
class RemovalStep:
    """The result of one step of the search; ``on_step`` receives it too.

    Args:
        changed: the parts that the step removed, or put back.
        back: whether the step put them back.
        removed: number of parts removed so far.
        target: remaining share of the behaviour.
        retained: remaining share of each retained task.
        seconds: time since the search began.
    """

    changed: tuple[str, ...]
    back: bool
    removed: int
    target: float
    retained: tuple[float, ...]
    seconds: float


OnPoint: TypeAlias = Callable[[RemovalStep], None]


@dataclass(frozen=True)
class RemovedParts:
    """The result of a search.

    Args:
        removed: numbers of the parts, ascending.
        path: the whole model, then one point per step.
    """

    removed: tuple[int, ...]
    path: tuple[RemovalStep, ...]

    def __repr__(self) -> str:
        return f"Found({len(self.removed):,} parts in {len(self.path) - 1} steps)"


@dataclass(frozen=True)
class _State:
    removed: frozenset[int]
    target: float
    retained: tuple[float, ...]

    def way(self, target: float) -> float:
        return max(self.target - target, 0.0)

    def damage(self, target: float) -> float:
        return sum((max(0.0, 1 - share) for share in self.retained), max(0.0, -target - self.target))

    @property
    def least(self) -> float:
        return min(self.retained, default=1.0)


def find(
    parts: Parts,
    target: Probe,
    retained: Sequence[Probe],
    settings: RemovalSearch,
    on_step: OnPoint | None = None,
    start: Sequence[int] = (),
    on_round: OnProgress | None = None,
) -> RemovedParts:
    """Search.

    Args:
        on_step: called after every step.
        start: parts that are gone from the beginning.
        on_round: called after every removal that is tried.

    Raises:
        EditError: no parts, or removing them does not reach the target.
    """
    if not parts.names:
        raise EditError("the circuit has no head, MLP or edge that can be removed")
    # nobody knows how many removals the search will try
    tried = ProgressCounter(None, on_round, "removals tried", "search")
    search = _Search(parts, target, tuple(retained), settings, tried)
    began, state = perf_counter(), search.measure(frozenset(start))
    path = list[RemovalStep]()

    def note(to: _State, changed: frozenset[int], back: bool) -> None:
        names = tuple(parts.names[part] for part in sorted(changed))
        path.append(RemovalStep(names, back, len(to.removed), to.target, to.retained, perf_counter() - began))
        if on_step is not None:
            on_step(path[-1])

    note(state, frozenset(), False)
    while state.way(settings.target) > 0:
        better = search.step(state)
        note(better, better.removed - state.removed, False)
        state = better
    needed = search.without_needless(state)
    if needed.removed != state.removed:
        note(needed, state.removed - needed.removed, True)
    return RemovedParts(tuple(sorted(needed.removed)), tuple(path))


@dataclass(frozen=True, eq=False)
class _Search:
    parts: Parts
    target: Probe
    retained: tuple[Probe, ...]
    settings: RemovalSearch
    tried: ProgressCounter

    @torch.no_grad()
    def measure(self, removed: frozenset[int]) -> _State:
        """Exactly, with these parts gone."""
        kept = self._kept(removed)
        target, *retained = (float(probe.share(lambda tokens: self.parts.stream(kept, tokens))) for probe in self._probes)
        self.tried.done(1)
        return _State(removed, target, tuple(retained))

    def step(self, state: _State) -> _State:
        """One step further.

        Raises:
            EditError: nothing makes way.
        """
        ranked = self._ranked(state)
        made = self._one_more(state, ranked) if self.parts.single else self._some_more(state, ranked)
        if not made:
            raise EditError(
                f"the target cannot be reached: with {len(state.removed)} of {len(self.parts.names)} parts of the circuit removed, "
                f"{state.target:z.1%} of {self.target.task.name} is left, and removing another part does not lower it. "
                f"Use --target {state.target + 0.01:.2f}, or a larger circuit."
            )
        harmless = [one for one in made if one.least >= min(self.settings.floor, state.least)]
        return max(harmless or made, key=self._score)

    def _one_more(self, state: _State, ranked: Sequence[int]) -> list[_State]:
        """One part more: those of the first block in which any makes way."""
        for start in range(0, len(ranked), self.settings.width):
            tried = [self.measure(state.removed | {part}) for part in ranked[start : start + self.settings.width]]
            if made := [one for one in tried if self._makes_way(state, one)]:
                return made
        return []

    def _some_more(self, state: _State, ranked: Sequence[int]) -> list[_State]:
        """The first 1, 2, 4, 8, … parts more, up to those that make enough of the way; those that make any."""
        made, size = [], 1
        while size < 2 * len(ranked):
            one = self.measure(state.removed | set(ranked[:size]))
            if self._makes_way(state, one):
                made.append(one)
            if self._made(state, one) >= _ENOUGH * self._way(state):
                break
            size *= 2
        return made

    def _makes_way(self, before: _State, after: _State) -> bool:
        return self._made(before, after) >= min(_NOTICEABLE, self._way(before))

    def _made(self, before: _State, after: _State) -> float:
        return self._way(before) - self._way(after)

    def without_needless(self, state: _State) -> _State:
        """With everything put back that the target does not need gone."""
        size = max(1, len(state.removed) // 2)
        while size:
            gone = sorted(state.removed)
            for chunk in (gone[start : start + size] for start in range(0, len(gone), size)):
                tried = self.measure(state.removed - set(chunk))
                harm = tried.damage(self.settings.target) - state.damage(self.settings.target)
                if tried.removed and not self._way(tried) and harm <= _ROUNDING:
                    state = tried
            size //= 2
        return state

    @property
    def _probes(self) -> tuple[Probe, ...]:
        return (self.target, *self.retained)

    def _way(self, state: _State) -> float:
        return state.way(self.settings.target)

    def _kept(self, removed: frozenset[int]) -> Float[Tensor, " part"]:
        kept = torch.ones(len(self.parts.names), device=self.parts.model.device, dtype=self.parts.model.dtype)
        kept[sorted(removed)] = 0
        return kept

    def _ranked(self, state: _State) -> list[int]:
        """The other parts, by what gradients say of them."""
        kept = self._kept(state.removed).requires_grad_()
        gradients = []
        for probe in self._probes:
            share = probe.share(lambda tokens: self.parts.stream(kept, tokens))
            gradients.append(torch.autograd.grad(share, kept)[0].double().tolist())
        rest = [part for part in range(len(self.parts.names)) if part not in state.removed]

        def expected(part: int) -> float:
            shares = (state.target, *state.retained)
            target, *retained = (before - slopes[part] for before, slopes in zip(shares, gradients, strict=True))
            return self._score(_State(state.removed, target, tuple(retained)))

        return sorted(rest, key=lambda part: (-expected(part), part))

    def _score(self, state: _State) -> float:
        return -self._way(state) - self.settings.weight * state.damage(self.settings.target)
