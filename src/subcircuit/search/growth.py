"""Growth of a circuit: the cut edges that are worth restoring, nominated by gradients and measured.

    gain(e) = −mean_α ∂J/∂mask(e) at the masks C + α (all − C)        J: the loss (``objective.py``)

Growth nominates at α = 0, where only edges between nodes of the circuit have a gradient; where these deliver little when they
are *measured*, along the path as well (α in ALPHAS), where paths through new nodes show. What lowers J most per edge goes
in, fewer edges where they do not deliver, then those of the others that are seen to help, one by one; and twice as many, and
so on, where no few of them are worth their price without the others (the arms of an AND).

A cut edge does something only if its writer carries something and its reader is heard. So edges are taken by their
gain, the best first, where their reader is the logits or belongs to a node with a kept path there; a writer
that carries nothing yet is then given its own best edge, and so on back to a writer that carries something, an embedding
at last. Such a *chain* goes in whole or not at all.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import heappop, heappush
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.engine.forward import last_stream
from subcircuit.graph import Graph, Point
from subcircuit.graph.circuit import inputs_of
from subcircuit.search.batches import Batches
from subcircuit.search.journal import Journal, each, once
from subcircuit.search.masks import MaskedLoss
from subcircuit.search.objective import Panel, at_most, digest, grown
from subcircuit.search.problem import Problem

ALPHAS = (0.1, 0.3, 0.6)
NEAR_MODEL = 0.9
# shares of a nominated round that are measured
_PARTS = (1.0, 0.5, 0.25)
# of a price, at least: rounding would decide about less
_LEAST_GAIN = 1e-7
# growth that would take more edges than this to bring the loss to 0 looks for paths through new nodes too
_PATIENCE = 200
# of the best nomination's gain for each edge, what a larger one must reach
_NEAR_BEST = 0.5
# of the step's that is taken, what a chain must reach that is measured after it
_WORTH = 0.25
# chains in a row that do not help, after which no more of a nomination are tried one by one
_FAILURES = 10
# of a round's edges, so many times as many are tried together at most
_TOGETHER = 64

Edge = tuple[int, int]
"""A row and a column."""
Chain = tuple[Edge, ...]
"""Edges, from the one into the circuit back to the one out of a writer that carries something."""
Spot = tuple[int, int]
"""A writer and a position."""


@dataclass(frozen=True)
class Wiring:
    """Which readers a writer's value depends on, and the other way round, at each position.

    Args:
        graph: the graph.
    """

    graph: Graph

    @cached_property
    def feeds(self) -> tuple[tuple[Spot, ...], ...]:
        """The writers and positions that each reader's input changes."""
        graph = self.graph
        return tuple(tuple(product(graph.owners(reader), graph.reached_from(reader))) for reader in graph.readers)

    @cached_property
    def inputs(self) -> dict[Spot, tuple[int, ...]]:
        """The readers that change what a writer writes at a position."""
        return inputs_of(self.graph)

    def carrying(self, kept: Bool[Tensor, "writer reader"]) -> set[Spot]:
        """Writers of a pruned circuit that write something else than their ablated value: embeddings, and those that read."""
        embeddings = list(range(len(self.graph.embeddings)))
        fed = (spot for column in kept.any(0).nonzero().flatten().tolist() for spot in self.feeds[column])
        return {*product(embeddings, range(len(self.graph.positions))), *fed}

    def heard(self, kept: Bool[Tensor, "writer reader"]) -> set[int]:
        """Readers of a pruned circuit whose input changes the logits: those of the logits, and of writers that are read."""
        n_positions, n_readers = len(self.graph.positions), len(self.graph.readers)
        spots = ((row, column % n_positions) for row, column in kept.nonzero().tolist())
        return {*range(n_readers - n_positions, n_readers), *(reader for spot in spots for reader in self.inputs.get(spot, ()))}


def chains(wiring: Wiring, kept: Bool[Tensor, "writer reader"], gain: Float[Tensor, "writer reader"]) -> Iterator[Chain]:
    """Chains of cut edges that join a circuit: at each time the one whose first edge has the largest gain of all that can join.

    Args:
        kept: the circuit, pruned: each of its edges lies on a path.
        gain: what restoring each cut edge promises; edges of no positive gain join nothing.
    """
    graph, n_positions = wiring.graph, len(wiring.graph.positions)
    gain = gain.masked_fill(~graph.edges | kept, 0.0).clamp(min=0)
    carrying, heard, taken = wiring.carrying(kept), set[int](), set[Edge]()
    waiting, stuck = list[tuple[float, int, int]](), dict[Spot, list[tuple[float, int, int]]]()

    def hear(readers: Iterable[int]) -> None:
        for column in {*readers} - heard:
            heard.add(column)
            for row in gain[:, column].nonzero().flatten().tolist():
                heappush(waiting, (-float(gain[row, column]), column, row))

    def carry(spots: Iterable[Spot]) -> None:
        for spot in {*spots} - carrying:
            carrying.add(spot)
            for edge in stuck.pop(spot, ()):
                heappush(waiting, edge)

    hear(wiring.heard(kept))
    while waiting:
        edge = _, column, row = heappop(waiting)
        if (row, column) in taken:
            continue
        chain = _chain(wiring, carrying, gain, row, column)
        spots = [(w, r % n_positions) for w, r in chain]
        if spots[-1] not in carrying:
            # it waits for one of its writers to carry something
            for spot in spots:
                stuck.setdefault(spot, []).append(edge)
            continue
        yield chain
        taken.update(chain)
        for (_, r), spot in zip(chain, spots, strict=True):
            carry(wiring.feeds[r])
            hear(wiring.inputs.get(spot, ()))


def _chain(wiring: Wiring, carrying: set[Spot], gain: Float[Tensor, "writer reader"], row: int, column: int) -> Chain:
    """From an edge back to a writer that carries something, or to one into which no edge of positive gain leads."""
    n_positions, chain = len(wiring.graph.positions), [(row, column)]
    while (spot := (chain[-1][0], chain[-1][1] % n_positions)) not in carrying:
        columns = wiring.inputs.get(spot, ())
        best, at = gain[:, columns].T.flatten().max(0) if columns else (0, 0)
        if best <= 0:
            break
        reader, writer = divmod(int(at), len(gain))
        chain.append((writer, columns[reader]))
    return tuple(chain)


def with_chains(kept: Bool[Tensor, "writer reader"], added: list[Chain]) -> Bool[Tensor, "writer reader"]:
    """The circuit with these chains."""
    more = kept.clone()
    for row, column in (edge for chain in added for edge in chain):
        more[row, column] = True
    return more


@dataclass(frozen=True, eq=False)
class GrowthStep:
    """A larger circuit.

    Args:
        per_edge: by how much each of the edges that it has more lowers the loss.
        edges: how many these are.
        chains: what they are.
        losses: of the circuit, on each prompt.
    """

    per_edge: float
    edges: int
    kept: Bool[Tensor, "writer reader"]
    chains: tuple[Chain, ...]
    losses: Float[Tensor, " batch"]


class Growth:
    """What a refinement restores.

    Args:
        panel: the prompts of the search.
        price: by how much an edge must lower the loss.
        circuit_examples: prompts on which gradients at the circuit are taken, at most.
        path_examples: prompts on which gradients along the path are taken, at most.
        batch_size: prompts whose gradients are taken at once; None chooses by memory.
        journal: remembers gradients and losses.
    """

    def __init__(
        self, panel: Panel, price: float, circuit_examples: int, path_examples: int, batch_size: int | None, journal: Journal
    ):
        self.panel, self.price, self.journal, self.trials = panel, max(price, _LEAST_GAIN), journal, 0
        self.at_circuit, self.along_path = (
            MaskedLoss.of(_some(panel.loss, examples), batch_size, last_stream) for examples in (circuit_examples, path_examples)
        )
        self._wiring = Wiring(panel.problem.graph)
        self._base: Batches | None = None

    def larger(self, point: Point, room: int, left: int) -> Bool[Tensor, "writer reader"] | None:
        """A circuit with more edges that are worth their price; None if nothing that is nominated is.

        Args:
            point: the circuit as it is.
            room: how many edges may join it.
            left: how many may where they do nothing without each other.
        """
        found = self._measured(point, self.gain(point.kept, (0.0,), self.at_circuit), room)
        if _best(found) * _PATIENCE < point.search.loss:
            found += self._measured(point, self.gain(point.kept, ALPHAS, self.along_path), room)
        kept = self._helpful(point, found, room)
        if not torch.equal(kept, point.kept):
            return kept
        step = _best_of(self._together(point, room, left), self.price)
        return None if step is None else step.kept

    def gain(
        self, kept: Bool[Tensor, "writer reader"], alphas: Sequence[float], loss: MaskedLoss
    ) -> Float[Tensor, "writer reader"]:
        """−∂J/∂mask, averaged along the way from a circuit to the model."""
        key = f"{digest(kept)}/gain"
        units = [(f"{key}/{alpha:g} of {len(loss.problem.task)}", alpha) for alpha in alphas]
        gradients = each(self.journal, units, lambda alpha: _gradient(loss, kept, alpha))
        return -sum(gradients, torch.tensor(0.0)) / len(alphas)

    def losses_of(self, kept: Bool[Tensor, "writer reader"], base: Bool[Tensor, "writer reader"]) -> Float[Tensor, " batch"]:
        """J on each prompt of a circuit with all edges of ``base`` and some more."""
        self.trials += 1
        # what was remembered is on the processor
        return once(self.journal, f"{digest(base)}/losses of {digest(kept)}", lambda: self._grown(base, kept).loss()).cpu()

    def _grown(self, base: Bool[Tensor, "writer reader"], kept: Bool[Tensor, "writer reader"]) -> Batches:
        """The engines in the state of a larger circuit; that of ``base`` is held, as many are measured from there."""
        if self._base is None or not torch.equal(self._base.kept, base):
            self._base = self.panel.at(base)
        return grown(self._base, kept)

    def _helpful(self, point: Point, found: Sequence[GrowthStep], room: int) -> Bool[Tensor, "writer reader"]:
        """The circuit with what helps of what is nominated: a large step of the best, else chain by chain what is seen to help.

        The first edges are the best; a larger step saves gradients as long as its edges are worth nearly as much. Where few of
        many help, gradients cannot tell which, and the rest is tried until several in a row have not helped.
        """
        step = _best_of(found, self.price)
        if step is not None and 2 * step.edges > room:
            return step.kept
        before, failures = point.kept, 0
        if step is None:
            kept, loss, worth = before, self.losses_of(before, before), point.search.loss / _PATIENCE
        else:
            kept, loss, worth = step.kept, step.losses, step.per_edge
        for chain in dict.fromkeys(chain for other in found for chain in other.chains):
            more = with_chains(kept, [chain])
            new = int((more & ~kept).sum())
            if not new or int((more & ~before).sum()) > room:
                continue
            after = self.losses_of(more, kept)
            helps = at_most(after - loss) < 0 and float((loss - after).mean()) >= max(_WORTH * worth, self.price) * new
            kept, loss, failures = (more, after, 0) if helps else (kept, loss, failures + 1)
            if failures == _FAILURES:
                break
        return kept

    def _together(self, point: Point, room: int, left: int) -> list[GrowthStep]:
        """Steps of twice as many edges, and so on, until one lowers the loss: edges that do nothing without each other.

        Gradients near the model see them: there all others are nearly whole.
        """
        gain, found = self.gain(point.kept, (NEAR_MODEL,), self.along_path), list[GrowthStep]()
        most = min(left, _TOGETHER * room)
        while _best(found) <= self.price and room <= most:
            found += self._measured(point, gain, room)
            room *= 2
        return found

    def _measured(self, point: Point, gain: Float[Tensor, "writer reader"], room: int) -> list[GrowthStep]:
        """What is nominated, and what it is worth."""

        def step(taken: list[Chain]) -> GrowthStep:
            kept = with_chains(point.kept, taken)
            edges, losses = int((kept & ~point.kept).sum()), self.losses_of(kept, point.kept)
            return GrowthStep((point.search.loss - float(losses.mean())) / edges, edges, kept, tuple(taken), losses)

        return [step(taken) for taken in self._nominated(point, gain, room)]

    def _nominated(self, point: Point, gain: Float[Tensor, "writer reader"], room: int) -> list[list[Chain]]:
        """The most promising chains, and fewer of them."""
        taken, size = list[Chain](), 0
        for chain in chains(self._wiring, point.kept, gain):
            size += len(chain)
            if size > room:
                break
            taken.append(chain)
        # a single chain too, where larger rounds overshoot
        counts = sorted({1, *(max(1, round(part * len(taken))) for part in _PARTS)}, reverse=True) if taken else []
        return [taken[:count] for count in counts]


def _gradient(loss: MaskedLoss, kept: Bool[Tensor, "writer reader"], alpha: float) -> Float[Tensor, "writer reader"]:
    """∂J/∂mask, so far on the way from a circuit to the model."""
    start = kept.float()
    mask = (start + alpha * (loss.problem.graph.edges.float() - start)).requires_grad_()
    with torch.enable_grad():
        loss.backward(mask[None])
    assert mask.grad is not None
    return mask.grad.double()


def _some(problem: Problem, examples: int) -> Problem:
    """A problem with so many of its prompts, evenly spread."""
    wanted = torch.zeros(len(problem.task), dtype=torch.bool)
    wanted[torch.linspace(0, len(wanted) - 1, min(examples, len(wanted))).round().long()] = True
    return replace(problem, task=problem.task.where(wanted.to(problem.model.device)))


def _best_of(steps: Sequence[GrowthStep], price: float) -> GrowthStep | None:
    """The largest of those whose edges are worth nearly as much as the best step's; None where none is worth its price."""
    near = [step for step in steps if step.per_edge >= max(_NEAR_BEST * _best(steps), price)]
    return max(near, key=lambda step: (step.edges, step.per_edge), default=None)


def _best(steps: Sequence[GrowthStep]) -> float:
    """By how much an edge of the best step lowers the loss; 0 without steps."""
    return max((step.per_edge for step in steps), default=0.0)
