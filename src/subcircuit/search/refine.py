"""Refinement: from any circuit to a small one that is faithful on prompts it has not seen.

A circuit found by cutting edge after edge has lost what thousands of harmless-looking cuts add up to. Refinement takes
it as a seed and alternates, on the loss J (``objective.py``):

    grow     restore the cut edges that promise most, gain(e) = −mean_α ∂J/∂mask(e) at the masks C + α (all − C)
    prune    measure every edge of the circuit by cutting it alone, and drop those that cost least, cheapest first,
             measured again after each drop

Growth nominates at α = 0, where only edges between nodes of the circuit have a gradient; where these deliver little when they
are *measured*, along the path as well (α in ALPHAS), where paths through new nodes show. What lowers J most per edge goes
in, by chains that join the circuit (``connect.py``), fewer of them where they do not deliver, then those of the others that are
seen to help, one by one; and twice as many, and so on, where no few of them are worth their price without the others (the arms of an AND).
Gradients nominate what to restore and never what to cut. Growth ends when the targets hold, when nothing that is nominated helps,
or when four rounds have not helped the *validation* prompts: what they gain is fitted to those of the search.

What a cut costs is trusted as far as its standard error over the prompts allows (``pruning.py``). A prune round is taken back when
it raises the loss on validation prompts, which took no part in it, by more than the price of the edges that it drops, or loses the
targets: pruning on few prompts overfits.

Cost: a round of growth is a masked forward and backward pass (``engine/forward.py``, some ten plain forward passes of the same
prompts) over some of the search prompts and len(ALPHAS) over fewer; a trial of growth or pruning runs the circuit's nodes downstream of
one edge, and one that opens nodes runs the whole circuit.
Limits: greedy, so one circuit among several as good; relative to the metric, the ablation and the prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from time import perf_counter
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.engine.forward import last_stream
from subcircuit.entry import entry
from subcircuit.errors import GraphError, SettingsError
from subcircuit.graph import Action, Circuit, Point, RefinePath, Standing
from subcircuit.search.acdc import Acdc
from subcircuit.search.attribution import check_batch_size, check_differentiable
from subcircuit.search.batches import Batches
from subcircuit.search.connect import Chain, Wiring, chains, with_chains
from subcircuit.search.cost import EXAMPLES, SearchCost, seconds_of
from subcircuit.search.journal import FORGETFUL, Journal, Under, each, once
from subcircuit.search.masks import MaskedLoss
from subcircuit.search.memory import Footprint, of_gradients
from subcircuit.search.method import Method
from subcircuit.search.objective import Panel, Terms, check_terms, digest, grown
from subcircuit.search.problem import Problem
from subcircuit.search.pruning import Cost, at_most, costs, pruned
from subcircuit.search.result import OnProgress, Refining, Result, timed

DEFAULT_FAITHFULNESS = 0.95
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
# rounds of growth by which a cost is told: fewer are seldom enough
_LEAST_ROUNDS = 4
# rounds of growth that do not help the prompts that judge, after which growth ends
_STALLED = 4
# of a round's edges, so many times as many are tried together at most
_TOGETHER = 64


@dataclass(frozen=True)
class Refine(Method):
    """Settings of a refinement.

    Args:
        faithfulness: target: f lies this near to 1, |1 − f| ≤ 1 − faithfulness; 0.95 where no target is set.
        kl: target: KL(model ‖ circuit) in nats, at most; None sets none.
        edges: target: at most so many edges; None sets none.
        seed_threshold: where no circuit is given: τ of the ACDC search that makes the seed, as a share of what cutting
            every edge changes in the metric.
        loss: which terms of J count: both, faithfulness, kl.
        grow: edges nominated in a round of growth.
        price: an edge goes when its cut raises J by less, and edges join that lower J by more, each.
        rounds: of growth, at most.
        circuit_examples: search prompts on which gradients at the circuit are taken, at most.
        path_examples: search prompts on which gradients along the path are taken, at most.
        batch_size: search prompts whose gradients are taken at once; None chooses by memory.
    """

    name = "refine"
    description = "a coarse ACDC, grown and pruned until it is faithful on unseen prompts"
    meaning = "what cutting the edge alone adds to the loss of the refinement, in the circuit"
    ranks = False

    faithfulness: float | None = None
    kl: float | None = None
    edges: int | None = None
    seed_threshold: float = 0.02
    loss: Terms = "both"
    grow: int = 25
    price: float = 0.0005
    rounds: int = 40
    circuit_examples: int = 16
    path_examples: int = 8
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.faithfulness is not None and not 0 < self.faithfulness < 1:
            raise SettingsError(f"the target faithfulness is {self.faithfulness}: it must lie between 0 and 1, for example 0.95")
        for name in ("kl", "seed_threshold"):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value > 0):
                raise SettingsError(f"{name} is {value}: it must be above 0, for example 0.5")
        for name in ("edges", "grow", "rounds", "circuit_examples", "path_examples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} is {value}: it must be at least 1")
        if not (isfinite(self.price) and self.price >= 0):
            raise SettingsError(f"price is {self.price}: it must be at least 0, for example 0.0005")
        check_terms(self.loss)
        check_batch_size(self.batch_size)
        if self.faithfulness is None and self.kl is None and self.edges is None:
            object.__setattr__(self, "faithfulness", DEFAULT_FAITHFULNESS)

    def check(self, problem: Problem) -> None:
        """Refuse what ``search`` refuses."""
        check_differentiable(problem)

    @entry
    def search(
        self, problem: Problem, progress: OnProgress | None = None, journal: Journal = FORGETFUL, seed: Circuit | None = None
    ) -> Result:
        """Find a small circuit that is faithful on prompts it has not seen.

        Args:
            problem: prompts, metric and ablation. Its validation prompts decide when the targets are reached; without them the
                prompts of the search do, and a circuit may be fitted to them.
            progress: called with a ``Step`` while a seed is searched for, then with a ``Refining`` after every round.
            journal: remembers gradients and losses, for a refinement that was interrupted to go on.
            seed: a circuit of this graph to begin with; None searches for one by ACDC at a coarse threshold.

        Raises:
            GraphError: the seed is of another graph.
            SettingsError: the metric has no gradients, or does not tell the model from the circuit without edges.
            NumericalError: a loss is NaN or infinite.
        """
        self.check(problem)
        if seed is not None and seed.graph != problem.graph:
            raise GraphError(
                f"the seed is a circuit of another graph ({seed.graph.scope}) than the one to refine ({problem.graph.scope})"
            )
        return _refined(problem, self, progress, journal, seed)

    @torch.no_grad()
    def cost(self, problem: Problem, patience: float = 60.0) -> SearchCost:
        """The search for the seed, and rounds of growth by half its edges; pruning costs little beside them."""
        seed = coarse(problem, self).cost(problem, patience)
        rounds = min(self.rounds, max(_LEAST_ROUNDS, round((seed.kept or 0) / 2 / self.grow)))
        few = replace(problem, task=problem.task[:EXAMPLES], validation=None)
        state = Refinement(few, Circuit.empty(problem.graph), self)
        gradient = seconds_of(lambda: state.gain((0.0,), state.at_circuit)) / len(few.task)
        n = len(problem.task)
        passes = min(self.circuit_examples, n) + len(ALPHAS) * min(self.path_examples, n)
        return replace(seed, seconds=seed.seconds + rounds * passes * gradient, kept=None)

    def memory(self, problem: Problem) -> Footprint:
        """What is kept of the runs as it refines is less than what the search for the seed keeps, whatever its threshold."""
        seed, gradients = Acdc().memory(problem), of_gradients(problem, self.batch_size)
        return replace(seed, work=max(seed.work, gradients.runs + gradients.work))

    def reached(self, standing: Standing) -> bool:
        """Whether a circuit is good enough, whatever its size; False where only a size is asked for."""
        asked = self.faithfulness is not None or self.kl is not None
        near = self.faithfulness is None or abs(1 - standing.faithfulness) <= 1 - self.faithfulness
        return asked and near and (self.kl is None or standing.kl <= self.kl)


@torch.no_grad()
def _refined(problem: Problem, config: Refine, progress: OnProgress | None, journal: Journal, seed: Circuit | None) -> Result:
    graph = problem.graph

    def run() -> tuple[Refinement, Point]:
        start = seed or coarse(problem, config).search(problem, progress, Under(journal, "seed")).circuit
        state = Refinement(problem, start, config, progress, journal)
        return state, state.run()

    (state, point), seconds, forward_seconds = timed(problem, run)
    scores = torch.full(graph.edges.shape, float("nan"))
    for cost in state.costs(point.kept):
        scores[cost.cell] = cost.mean
    return Result(
        circuit=Circuit(graph, point.kept, scores),
        seconds=seconds,
        forward_seconds=forward_seconds,
        trials=state.trials,
        notes={"rounds": float(len(state.points) - 1), "target_reached": float(state.satisfies(point))},
        path=RefinePath(graph, tuple(state.points)),
    )


def coarse(problem: Problem, config: Refine) -> Acdc:
    """The search for a seed: its threshold is a share of what cutting every edge changes."""
    model_value, empty = Panel.of(problem, config.loss).ends
    return Acdc(threshold=config.seed_threshold * abs(model_value - empty))


@dataclass(frozen=True, eq=False)
class _Step:
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


class Refinement:
    """State of a running refinement."""

    def __init__(
        self,
        problem: Problem,
        seed: Circuit,
        config: Refine,
        on_step: OnProgress | None = None,
        journal: Journal = FORGETFUL,
    ):
        graph = problem.graph
        self.graph, self.config, self.journal = graph, config, journal
        self.on_step, self.began = on_step, perf_counter()
        self.search = Panel.of(problem, config.loss)
        self.validation = None
        if problem.validation is not None:
            judged = replace(problem, task=problem.validation, validation=None)
            self.validation = Panel.of(judged, config.loss, self.search.units)
        self.wiring = Wiring(graph)
        self.at_circuit = self._masked_loss(config.circuit_examples)
        self.along_path = self._masked_loss(config.path_examples)
        self.trials, self.points = 0, list[Point]()
        self._measured_costs, self._base = dict[str, list[Cost]](), cast(Batches | None, None)
        self.move("seed", seed.prune().kept)

    @property
    def price(self) -> float:
        """What an edge must be worth."""
        return max(self.config.price, _LEAST_GAIN)

    def _masked_loss(self, examples: int) -> MaskedLoss:
        """The loss on some of the search prompts, with gradients."""
        task = self.search.loss.task
        some = task.where(_spread(len(task), examples).to(self.search.loss.model.device))
        return MaskedLoss.of(replace(self.search.loss, task=some), self.config.batch_size, last_stream)

    # ---- where it stands --------------------------------------------------------------------------------------------

    @property
    def point(self) -> Point:
        """The circuit as it is."""
        return self.points[-1]

    def move(self, action: Action, kept: Bool[Tensor, "writer reader"]) -> None:
        """Go on to another circuit."""
        self.points.append(self._measured(action, kept))
        if self.on_step is not None:
            point = self.point
            self.on_step(
                Refining(
                    len(self.points) - 1,
                    action,
                    point.n_edges,
                    point.judged.faithfulness,
                    point.judged.kl,
                    perf_counter() - self.began,
                    lambda: Circuit(self.graph, point.kept),
                )
            )

    def _measured(self, action: Action, kept: Bool[Tensor, "writer reader"]) -> Point:
        validation = None if self.validation is None else self.validation.standing(kept)
        return Point(action, kept, self.search.standing(kept), validation)

    def reached(self, point: Point) -> bool:
        """Whether targets other than the size hold, on the prompts of the search and on those that judge."""
        return all(self.config.reached(standing) for standing in (point.search, point.judged))

    def satisfies(self, point: Point) -> bool:
        """Whether all targets hold, the size among them."""
        config = self.config
        good = self.reached(point) or (config.faithfulness is None and config.kl is None)
        return good and (config.edges is None or point.n_edges <= config.edges)

    def run(self) -> Point:
        """Grow and prune until the targets hold and nothing more can go; returns the best circuit that fits them."""
        for _ in range(self.config.rounds):
            if self.reached(self.point) or self.stalled() or not self.grow():
                break
        self.prune_on()
        self.shrink()
        return self.best()

    def stalled(self) -> bool:
        """Whether growth no longer helps the prompts that judge: what it still gains is fitted to those of the search."""
        losses = [point.judged.loss for point in self.points]
        return len(losses) > _STALLED and min(losses[-_STALLED:]) >= min(losses[:-_STALLED])

    def best(self) -> Point:
        """The smallest circuit that reaches the targets, otherwise the one that does best at the size asked for."""
        most = self.config.edges or self.graph.n_edges
        fitting = [point for point in self.points if point.n_edges <= most] or self.points[:1]
        reaching = [point for point in fitting if self.reached(point)]
        if reaching:
            return min(reaching, key=lambda point: (point.n_edges, point.judged.loss))
        return min(fitting, key=lambda point: point.judged.loss)

    # ---- grow -------------------------------------------------------------------------------------------------------

    def grow(self) -> bool:
        """A round of growth; False if nothing that is nominated lowers the loss."""
        left = (self.config.edges or self.graph.n_edges) - self.point.n_edges
        room = min(self.config.grow, left)
        if room < 1:
            return False
        found = self._measured_steps(self.gain((0.0,), self.at_circuit), room)
        if _best(found) * _PATIENCE < self.point.search.loss:
            found += self._measured_steps(self.gain(ALPHAS, self.along_path), room)
        kept = self._helpful(found, room)
        if torch.equal(kept, self.point.kept):
            step = _best_of(self._together(room, left), self.price)
            if step is None:
                return False
            kept = step.kept
        self.move("grow", kept)
        return True

    def _helpful(self, found: Sequence["_Step"], room: int) -> Bool[Tensor, "writer reader"]:
        """The circuit with what helps of what is nominated: a large step of the best, else chain by chain what is seen to help.

        The first edges are the best; a larger step saves gradients as long as its edges are worth nearly as much. Where few of
        many help, gradients cannot tell which, and the rest is tried until several in a row have not helped.
        """
        step = _best_of(found, self.price)
        if step is not None and 2 * step.edges > room:
            return step.kept
        before, failures = self.point.kept, 0
        if step is None:
            kept, loss, worth = before, self.losses_of(before, before), self.point.search.loss / _PATIENCE
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

    def _together(self, room: int, left: int) -> list["_Step"]:
        """Steps of twice as many edges, and so on, until one lowers the loss: edges that do nothing without each other.

        Gradients near the model see them: there all others are nearly whole.
        """
        gain, found = self.gain((NEAR_MODEL,), self.along_path), list[_Step]()
        most = min(left, _TOGETHER * room)
        while _best(found) <= self.price and room <= most:
            found += self._measured_steps(gain, room)
            room *= 2
        return found

    def _measured_steps(self, gain: Float[Tensor, "writer reader"], room: int) -> list["_Step"]:
        """What is nominated, and what it is worth."""
        before, loss = self.point.kept, self.point.search.loss

        def step(taken: list[Chain]) -> _Step:
            kept = with_chains(before, taken)
            edges, losses = int((kept & ~before).sum()), self.losses_of(kept, before)
            return _Step((loss - float(losses.mean())) / edges, edges, kept, tuple(taken), losses)

        return [step(taken) for taken in self.nominated(gain, room)]

    def gain(self, alphas: Sequence[float], loss: MaskedLoss) -> Float[Tensor, "writer reader"]:
        """−∂J/∂mask, averaged along the way from the circuit to the model."""
        key = f"{digest(self.point.kept)}/gain"
        units = [(f"{key}/{alpha:g} of {len(loss.problem.task)}", alpha) for alpha in alphas]
        return -sum(each(self.journal, units, lambda alpha: self._gradient(loss, alpha)), torch.tensor(0.0)) / len(alphas)

    def _gradient(self, loss: MaskedLoss, alpha: float) -> Float[Tensor, "writer reader"]:
        kept = self.point.kept.float()
        mask = (kept + alpha * (self.graph.edges.float() - kept)).requires_grad_()
        with torch.enable_grad():
            loss.backward(mask[None])
        assert mask.grad is not None
        return mask.grad.double()

    def nominated(self, gain: Float[Tensor, "writer reader"], room: int) -> list[list[Chain]]:
        """The most promising chains, and fewer of them."""
        taken, sizes = list[Chain](), list[int]()
        for chain in chains(self.wiring, self.point.kept, gain):
            if sum(sizes) + len(chain) > room:
                break
            taken.append(chain)
            sizes.append(len(chain))
        # a single chain too, where larger rounds overshoot
        counts = sorted({1, *(max(1, round(part * len(taken))) for part in _PARTS)}, reverse=True) if taken else []
        return [taken[:count] for count in counts]

    def losses_of(self, kept: Bool[Tensor, "writer reader"], base: Bool[Tensor, "writer reader"]) -> Float[Tensor, " batch"]:
        """J on each search prompt of a circuit with all edges of ``base`` and some more."""
        self.trials += 1
        # what was remembered is on the processor
        return once(self.journal, f"{digest(base)}/losses of {digest(kept)}", lambda: self._grown(base, kept).loss()).cpu()

    def _grown(self, base: Bool[Tensor, "writer reader"], kept: Bool[Tensor, "writer reader"]) -> Batches:
        """The engines in the state of a larger circuit; that of ``base`` is held, as many are measured from there."""
        if self._base is None or not torch.equal(self._base.kept, base):
            self._base = self.search.at(base)
        return grown(self._base, kept)

    # ---- prune ------------------------------------------------------------------------------------------------------

    def prune_on(self) -> None:
        """Prune round after round, for a higher price as long as the targets hold, until nothing more goes."""
        price = self.config.price
        while self.prune(price):
            price *= 1 if not self.reached(self.point) else 2

    def shrink(self) -> None:
        """Prune for a rising price, whatever that does, down to the number of edges asked for."""
        price = self.price
        while self.config.edges is not None and (over := self.point.n_edges - self.config.edges) > 0:
            kept = self.without_cheapest(price, over)
            if torch.equal(kept, self.point.kept):
                price *= 4
            else:
                self.move("prune", kept)

    def prune(self, price: float) -> bool:
        """A round of pruning; False if nothing goes, or if it is taken back."""
        before = self.point
        kept = self.without_cheapest(price)
        if torch.equal(kept, before.kept):
            return False
        after = self._measured("prune", kept)
        worse = after.judged.loss > before.judged.loss + (price * (before.n_edges - after.n_edges))
        if worse or (self.reached(before) and not self.reached(after)):
            return False
        self.move("prune", kept)
        return True

    def costs(self, kept: Bool[Tensor, "writer reader"]) -> list[Cost]:
        """What cutting each edge of a circuit alone adds to the loss; measured once."""
        key = digest(kept)
        if key not in self._measured_costs:
            self._measured_costs[key] = costs(self.search, kept, self.journal)
            self.trials += len(self._measured_costs[key])
        return self._measured_costs[key]

    def without_cheapest(self, price: float, most: int | None = None) -> Bool[Tensor, "writer reader"]:
        """What ``pruned`` leaves of the circuit."""
        found = pruned(self.search, self.point.kept, self.costs(self.point.kept), price, most)
        self.trials += found.trials
        return found.kept


def _best_of(steps: Sequence[_Step], price: float) -> _Step | None:
    """The largest of those whose edges are worth nearly as much as the best step's; None where none is worth its price."""
    near = [step for step in steps if step.per_edge >= max(_NEAR_BEST * _best(steps), price)]
    return max(near, key=lambda step: (step.edges, step.per_edge), default=None)


def _best(steps: Sequence[_Step]) -> float:
    """By how much an edge of the best step lowers the loss; 0 without steps."""
    return max((step.per_edge for step in steps), default=0.0)


def _spread(total: int, some: int) -> Bool[Tensor, " batch"]:
    """So many examples, evenly spread."""
    wanted = torch.zeros(total, dtype=torch.bool)
    wanted[torch.linspace(0, total - 1, min(some, total)).round().long()] = True
    return wanted
