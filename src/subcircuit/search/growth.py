"""Growth of a circuit: gradients nominate cut edges to restore, and measurements decide.

    gain(e) = −mean_α ∂J/∂mask(e) at the masks C + α (all − C)        J: the loss (``objective.py``)

Growth first nominates at α = 0, where only edges between nodes of the circuit have a gradient. If the *measured* gain of these
is small, it also nominates along the path (α in ALPHAS), where paths through new nodes have gradients. The nomination that
lowers J most per edge is restored: fewer edges if the full nomination does not help, then further nominated chains that are
measured to help, one by one. If no small set is worth its price (the arms of an AND), twice as many edges are tried, and so on.

A cut edge has an effect only if its writer differs from its ablated value and its reader has a path to the logits. Edges are
therefore taken by gain, largest first, if their reader is the logits or belongs to a node with a kept path there. A writer that
is not connected yet then gets its own best edge, and so on back to a connected writer, or at last an embedding. Such a *chain*
is restored completely or not at all.
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
# smallest gain, as a share of the price: rounding would decide about smaller ones
_LEAST_GAIN = 1e-7
# if growth would need more edges than this to bring the loss to 0, it also looks for paths through new nodes
_PATIENCE = 200
# a larger nomination must gain at least this share of the best nomination's gain per edge
_NEAR_BEST = 0.5
# a chain measured after a step must gain at least this share of the step's gain per edge
_WORTH = 0.25
# number of consecutive chains without gain after which the rest of a nomination is not tried one by one
_FAILURES = 10
# largest number of edges that are tried together, as a multiple of a round's edges
_TOGETHER = 64

Edge = tuple[int, int]
"""A row and a column of the edge matrix."""
Chain = tuple[Edge, ...]
"""Edges, from the one into the circuit back to the one out of a connected writer."""
Spot = tuple[int, int]
"""A writer and a position."""


@dataclass(frozen=True)
class Wiring:
    """The writers that depend on each reader, and the readers that each writer depends on, at each position.

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
        """Writers of a pruned circuit whose value differs from the ablated one: embeddings, and writers with kept inputs."""
        embeddings = list(range(len(self.graph.embeddings)))
        fed = (spot for column in kept.any(0).nonzero().flatten().tolist() for spot in self.feeds[column])
        return {*product(embeddings, range(len(self.graph.positions))), *fed}

    def heard(self, kept: Bool[Tensor, "writer reader"]) -> set[int]:
        """Readers of a pruned circuit whose input changes the logits: the logits' own, and readers of writers that are read."""
        n_positions, n_readers = len(self.graph.positions), len(self.graph.readers)
        spots = ((row, column % n_positions) for row, column in kept.nonzero().tolist())
        return {*range(n_readers - n_positions, n_readers), *(reader for spot in spots for reader in self.inputs.get(spot, ()))}


def chains(wiring: Wiring, kept: Bool[Tensor, "writer reader"], gain: Float[Tensor, "writer reader"]) -> Iterator[Chain]:
    """Chains of cut edges that join a circuit, always the one whose first edge has the largest gain of all that can join.

    Args:
        kept: the circuit, pruned: each of its edges lies on a path.
        gain: predicted gain of restoring each cut edge; edges without positive gain are not used.
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
            # the edge waits until one of its writers is connected
            for spot in spots:
                stuck.setdefault(spot, []).append(edge)
            continue
        yield chain
        taken.update(chain)
        for (_, r), spot in zip(chain, spots, strict=True):
            carry(wiring.feeds[r])
            hear(wiring.inputs.get(spot, ()))


def _chain(wiring: Wiring, carrying: set[Spot], gain: Float[Tensor, "writer reader"], row: int, column: int) -> Chain:
    """The chain from an edge back to a connected writer, or to a writer without an incoming edge of positive gain."""
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
    """The circuit with these chains restored."""
    more = kept.clone()
    for row, column in (edge for chain in added for edge in chain):
        more[row, column] = True
    return more


@dataclass(frozen=True, eq=False)
class GrowthStep:
    """A larger circuit and its loss.

    Args:
        per_edge: decrease of the loss per added edge.
        edges: number of added edges.
        chains: the added chains.
        losses: loss of the circuit on each prompt.
    """

    per_edge: float
    edges: int
    kept: Bool[Tensor, "writer reader"]
    chains: tuple[Chain, ...]
    losses: Float[Tensor, " batch"]


class Growth:
    """The growth step of a refinement.

    Args:
        panel: the search prompts.
        price: the decrease of the loss that an edge must achieve.
        circuit_examples: maximum number of prompts for gradients at the circuit.
        path_examples: maximum number of prompts for gradients along the path.
        batch_size: prompts whose gradients are taken at once; None chooses by memory.
        journal: stores gradients and losses.
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
        """A circuit with more edges that are worth their price; None if no nominated edges are.

        Args:
            point: the current circuit.
            room: maximum number of edges to add.
            left: maximum number of edges to add if they have no effect without each other.
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
        """−∂J/∂mask, averaged over several masks between a circuit and the model."""
        key = f"{digest(kept)}/gain"
        units = [(f"{key}/{alpha:g} of {len(loss.problem.task)}", alpha) for alpha in alphas]
        gradients = each(self.journal, units, lambda alpha: _gradient(loss, kept, alpha))
        return -sum(gradients, torch.tensor(0.0)) / len(alphas)

    def losses_of(self, kept: Bool[Tensor, "writer reader"], base: Bool[Tensor, "writer reader"]) -> Float[Tensor, " batch"]:
        """J on each prompt, for a circuit that contains all edges of ``base`` and some more."""
        self.trials += 1
        # journals return tensors on the CPU
        return once(self.journal, f"{digest(base)}/losses of {digest(kept)}", lambda: self._grown(base, kept).loss()).cpu()

    def _grown(self, base: Bool[Tensor, "writer reader"], kept: Bool[Tensor, "writer reader"]) -> Batches:
        """The engines in the state of a larger circuit. The state of ``base`` is cached, because many circuits start from it."""
        if self._base is None or not torch.equal(self._base.kept, base):
            self._base = self.panel.batches.at(base)
        return grown(self._base, kept)

    def _helpful(self, point: Point, found: Sequence[GrowthStep], room: int) -> Bool[Tensor, "writer reader"]:
        """The circuit with the best step; if that step is small, also with the chains that are measured to help.

        The first edges are the best; a larger step saves gradients as long as its edges are worth nearly as much. If few of many
        help, gradients cannot identify them, and the chains are tried one by one until several in a row have not helped.
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
        """Steps of twice as many edges, and so on, until one lowers the loss: edges that have no effect without each other.

        Gradients near the model reveal them, because nearly all other edges are kept there.
        """
        gain, found = self.gain(point.kept, (NEAR_MODEL,), self.along_path), list[GrowthStep]()
        most = min(left, _TOGETHER * room)
        while _best(found) <= self.price and room <= most:
            found += self._measured(point, gain, room)
            room *= 2
        return found

    def _measured(self, point: Point, gain: Float[Tensor, "writer reader"], room: int) -> list[GrowthStep]:
        """The nominated steps with their measured gains."""

        def step(taken: list[Chain]) -> GrowthStep:
            kept = with_chains(point.kept, taken)
            edges, losses = int((kept & ~point.kept).sum()), self.losses_of(kept, point.kept)
            return GrowthStep((point.search.loss - float(losses.mean())) / edges, edges, kept, tuple(taken), losses)

        return [step(taken) for taken in self._nominated(point, gain, room)]

    def _nominated(self, point: Point, gain: Float[Tensor, "writer reader"], room: int) -> list[list[Chain]]:
        """The most promising chains, and shorter lists of them."""
        taken, size = list[Chain](), 0
        for chain in chains(self._wiring, point.kept, gain):
            size += len(chain)
            if size > room:
                break
            taken.append(chain)
        # a single chain too, in case larger rounds overshoot
        counts = sorted({1, *(max(1, round(part * len(taken))) for part in _PARTS)}, reverse=True) if taken else []
        return [taken[:count] for count in counts]


def _gradient(loss: MaskedLoss, kept: Bool[Tensor, "writer reader"], alpha: float) -> Float[Tensor, "writer reader"]:
    """∂J/∂mask at the mask between a circuit (α = 0) and the model (α = 1)."""
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
    """The largest step whose edges are worth nearly as much as the best step's; None if no step is worth its price."""
    near = [step for step in steps if step.per_edge >= max(_NEAR_BEST * _best(steps), price)]
    return max(near, key=lambda step: (step.edges, step.per_edge), default=None)


def _best(steps: Sequence[GrowthStep]) -> float:
    """The loss decrease per edge of the best step; 0 without steps."""
    return max((step.per_edge for step in steps), default=0.0)
