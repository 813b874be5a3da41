"""Refinement: from any circuit to a small one that is faithful on unseen prompts.

A circuit found by cutting edge after edge has lost the sum of thousands of small effects. Refinement takes it as a seed and
alternates, on the loss J (``objective.py``):

        grow     restore the cut edges that lower J; gradients nominate them and measurements decide (``growth.py``)
        prune    measure every edge of the circuit by cutting it alone, and drop the edges that cost least, cheapest first,
                 with a new measurement after each drop

Gradients nominate edges to restore and never edges to cut. Growth ends when the targets hold, when no nomination helps, or when
four rounds have not helped the *validation* prompts: further gains are then fitted to the search prompts.

A change of J is a mean over few prompts, so pruning adds one standard error: an edge is dropped if its cut costs less than the
price even then. Without that margin, pruning overfits: on 16 prompts more than half of the edges of a circuit seemed to cost
nothing, and the circuit without them did worse on other prompts. A prune round is reverted if it raises J on validation prompts
by more than the price of the dropped edges, or if the targets no longer hold.

Cost: a round of growth is a masked forward and backward pass (``engine/forward.py``, some ten plain forward passes of the same
prompts) over some of the search prompts and len(ALPHAS) over fewer; a trial of growth or pruning runs the circuit's nodes downstream of
one edge, and a trial that opens nodes runs the whole circuit.
Limits: the result is relative to the metric, the ablation and the prompts; the method is greedy, so the circuit is one of several
equally good ones. Of redundant parts, such as the arms of an OR, it keeps one. The circuit itself does not show this: each of its
edges is needed, because the other arm is gone. Pruning does: a warning names edges that cost nothing until others were dropped
and much afterwards, with the dropped ones. Parts that the seed had already lost are not reported; ``direction="both"`` of
``acdc`` keeps both arms.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from time import perf_counter
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.errors import GraphError, SettingsError
from subcircuit.graph import Action, Circuit, Graph, Point, RefinePath, Standing
from subcircuit.search.acdc import Acdc
from subcircuit.search.attribution import check_batch_size, check_differentiable
from subcircuit.search.cost import EXAMPLES, SearchCost, seconds_of
from subcircuit.search.growth import ALPHAS, Growth
from subcircuit.search.journal import FORGETFUL, Journal, Under, each
from subcircuit.search.memory import Footprint, of_gradients
from subcircuit.search.method import Method
from subcircuit.search.objective import Panel, Terms, at_most, check_terms, digest, without_each
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, Progress, in_phase
from subcircuit.search.result import Result, timed

DEFAULT_FAITHFULNESS = 0.95
# largest share of the circuit's edges that a round of pruning drops
_AT_ONCE = 0.1
# an edge whose cut adds at least this much to the loss is needed
_NEEDED = 0.05
# number of edges that a warning names
_NAMED = 4
# rounds of growth that a cost estimate assumes: fewer are seldom enough
_LEAST_ROUNDS = 4
# number of growth rounds without gain on the validation prompts after which growth ends
_STALLED = 4


@dataclass(frozen=True)
class Refine(Method):
    """Settings of a refinement.

    Args:
        faithfulness: target: |1 − f| ≤ 1 − faithfulness; 0.95 if no target is set.
        kl: target: KL(model ‖ circuit) in nats, at most; None sets none.
        edges: target: maximum number of edges; None sets none.
        seed_threshold: τ of the ACDC search that makes the seed if no circuit is given, as a share of the metric's change when
            every edge is cut.
        loss: terms of J: both, faithfulness, kl.
        grow: number of edges nominated in a round of growth.
        price: an edge is dropped if its cut raises J by less; edges are restored if each lowers J by more.
        rounds: maximum number of growth rounds.
        circuit_examples: maximum number of search prompts for gradients at the circuit.
        path_examples: maximum number of search prompts for gradients along the path.
        batch_size: search prompts whose gradients are taken at once; None chooses by memory.
    """

    name = "refine"
    description = "a coarse ACDC, grown and pruned until it is faithful on unseen prompts"
    meaning = "increase of the refinement's loss when the edge alone is cut from the circuit"
    ranks = False

    faithfulness: float | None = None
    kl: float | None = None
    edges: int | None = None
    seed_threshold: float = 0.02
    loss: Terms = "both"
    grow: int = 25
    price: float = 0.0005
    rounds: int = 40
    circuit_examples: int = 32
    path_examples: int = 8
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.faithfulness is not None and not 0 < self.faithfulness < 1:
            raise SettingsError(f"the target faithfulness is {self.faithfulness}: it must be between 0 and 1, for example 0.95")
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
        """Raise the errors that ``search`` would raise for this problem."""
        check_differentiable(problem)

    @entry
    def search(
        self, problem: Problem, progress: OnProgress | None = None, journal: Journal = FORGETFUL, seed: Circuit | None = None
    ) -> Result:
        """Find a small circuit that is faithful on prompts it has not seen.

        Args:
            problem: prompts, metric and ablation. Its validation prompts decide when the targets are reached; without them the
                prompts of the search do, and a circuit may be fitted to them.
            progress: called while a seed is searched for, then after every round of growth and pruning.
            journal: stores gradients and losses, so that an interrupted refinement can resume.
            seed: a circuit of this graph to begin with; None searches for one by ACDC at a coarse threshold.

        Raises:
            GraphError: the seed is of another graph.
            SettingsError: the metric has no gradients, or does not tell the model from the circuit without edges.
            NumericalError: a loss is NaN or infinite.
        """
        self.check(problem)
        if seed is not None and seed.graph != problem.graph:
            raise GraphError(
                f"the seed circuit is of another graph (scope {seed.graph.scope}) than the problem (scope {problem.graph.scope})"
            )
        return _refined(problem, self, progress, journal, seed)

    @torch.no_grad()
    def cost(self, problem: Problem, patience: float = 60.0) -> SearchCost:
        """The cost of the search for the seed, plus rounds of growth by half its edges; pruning costs little in comparison."""
        seed = coarse(problem, self).cost(problem, patience)
        rounds = min(self.rounds, max(_LEAST_ROUNDS, round((seed.kept or 0) / 2 / self.grow)))
        few = replace(problem, task=problem.task[:EXAMPLES], validation=None)
        growth, empty = self.growth(Panel.of(few, self.loss)), torch.zeros_like(problem.graph.edges)
        gradient = seconds_of(lambda: growth.gain(empty, (0.0,), growth.at_circuit)) / len(few.task)
        n = len(problem.task)
        passes = min(self.circuit_examples, n) + len(ALPHAS) * min(self.path_examples, n)
        return replace(seed, seconds=seed.seconds + rounds * passes * gradient, kept=None)

    def memory(self, problem: Problem) -> Footprint:
        """Memory of the search for the seed; refinement itself keeps less, whatever the threshold."""
        seed, gradients = Acdc().memory(problem), of_gradients(problem, self.batch_size)
        return replace(seed, work=max(seed.work, gradients.runs + gradients.work))

    def growth(self, panel: Panel, journal: Journal = FORGETFUL) -> Growth:
        """The growth step on the prompts of a panel."""
        return Growth(panel, self.price, self.circuit_examples, self.path_examples, self.batch_size, journal)

    def reached(self, standing: Standing) -> bool:
        """Whether a circuit reaches the targets other than the size; False if only a size is a target."""
        asked = self.faithfulness is not None or self.kl is not None
        near = self.faithfulness is None or abs(1 - standing.faithfulness) <= 1 - self.faithfulness
        return asked and near and (self.kl is None or standing.kl <= self.kl)


@torch.no_grad()
def _refined(problem: Problem, config: Refine, progress: OnProgress | None, journal: Journal, seed: Circuit | None) -> Result:
    graph = problem.graph

    def run() -> tuple[Refinement, Point]:
        start = seed
        if start is None:
            start = coarse(problem, config).search(problem, in_phase(progress, "seed 1/3"), Under(journal, "seed")).circuit
        state = Refinement(problem, start, config, progress, journal, phases=2 if start is seed else 3)
        return state, state.run()

    (state, point), seconds, forward_seconds = timed(problem, run)
    scores = torch.full(graph.edges.shape, float("nan"))
    for cost in state.costs(point.kept):
        scores[cost.cell] = cost.mean
    return Result(
        circuit=Circuit(graph, point.kept, scores),
        seconds=seconds,
        forward_seconds=forward_seconds,
        trials=state.growth.trials + state.prunings,
        notes={"rounds": float(len(state.points) - 1), "target_reached": float(state.satisfies(point))}
        | ({"one_of_several": words} if (words := one_of_several(state, point)) else {}),
        path=RefinePath(graph, tuple(state.points)),
    )


def coarse(problem: Problem, config: Refine) -> Acdc:
    """The ACDC search for a seed; its threshold is a share of the metric's change when every edge is cut."""
    model_value, empty = Panel.of(problem, config.loss).ends
    return Acdc(threshold=config.seed_threshold * abs(model_value - empty))


class Cost(NamedTuple):
    """Loss added by cutting an edge alone: the mean over prompts, and a bound that similar prompts rarely exceed."""

    mean: float
    at_most: float
    cell: tuple[int, int]


class Refinement:
    """State of a running refinement.

    Args:
        phases: number of phases that progress tells of: growth and pruning, after the search for a seed if there is one.
    """

    def __init__(
        self,
        problem: Problem,
        seed: Circuit,
        config: Refine,
        on_step: OnProgress | None = None,
        journal: Journal = FORGETFUL,
        phases: int = 2,
    ):
        graph = problem.graph
        self.graph, self.config, self.journal = graph, config, journal
        self.on_step, self.phase, self.phases, self.began = on_step, "grow", phases, perf_counter()
        self.search = Panel.of(problem, config.loss)
        self.validation = None
        if problem.validation is not None:
            judged = replace(problem, task=problem.validation, validation=None)
            self.validation = Panel.of(judged, config.loss, self.search.units)
        self.growth, self.prunings = config.growth(self.search, journal), 0
        self.points, self._measured_costs = list[Point](), dict[str, list[Cost]]()
        self.move("seed", seed.prune().kept)

    # ---- state ------------------------------------------------------------------------------------------------------

    @property
    def point(self) -> Point:
        """The current circuit."""
        return self.points[-1]

    def move(self, action: Action, kept: Bool[Tensor, "writer reader"]) -> None:
        """Replace the current circuit."""
        point = self._measured(action, kept)
        self.points.append(point)
        self._report()

    def _report(self) -> None:
        """Report the current circuit. How many rounds follow, and what each of them costs, cannot be predicted."""
        if self.on_step is None:
            return
        now, (kept, judged) = perf_counter(), (self.point.kept, self.point.judged)
        target = self.config.faithfulness
        numbers = {"edges": self.point.n_edges, "faithfulness": judged.faithfulness}
        numbers |= {"KL": judged.kl} if target is None else {"target": target}
        last, phase = self.phases, self.phase
        name = f"{phase} {last if phase == 'prune' else last - 1}/{last}"
        rounds, circuit = len(self.points) - 1, Circuit(self.graph, kept)
        self.on_step(Progress(name, rounds, None, now - self.began, "", numbers, lambda: circuit))

    def _measured(self, action: Action, kept: Bool[Tensor, "writer reader"]) -> Point:
        validation = None if self.validation is None else self.validation.standing(kept)
        return Point(action, kept, self.search.standing(kept), validation)

    def reached(self, point: Point) -> bool:
        """Whether the targets other than the size hold, on the search prompts and on the validation prompts."""
        return all(self.config.reached(standing) for standing in (point.search, point.judged))

    def satisfies(self, point: Point) -> bool:
        """Whether all targets hold, the size included."""
        config = self.config
        good = self.reached(point) or (config.faithfulness is None and config.kl is None)
        return good and (config.edges is None or point.n_edges <= config.edges)

    def run(self) -> Point:
        """Grow and prune until the targets hold and no further edge can go; return the best circuit (``best``)."""
        for _ in range(self.config.rounds):
            if self.reached(self.point) or self.stalled() or not self.grow():
                break
        self.phase, self.began = "prune", perf_counter()
        self._report()
        self.prune_on()
        self.shrink()
        return self.best()

    def stalled(self) -> bool:
        """Whether growth no longer helps the validation prompts: further gains are fitted to the search prompts."""
        losses = [point.judged.loss for point in self.points]
        return len(losses) > _STALLED and min(losses[-_STALLED:]) >= min(losses[:-_STALLED])

    def best(self) -> Point:
        """The smallest circuit that reaches the targets, otherwise the best circuit of the requested size."""
        most = self.config.edges or self.graph.n_edges
        fitting = [point for point in self.points if point.n_edges <= most] or self.points[:1]
        reaching = [point for point in fitting if self.reached(point)]
        if reaching:
            return min(reaching, key=lambda point: (point.n_edges, point.judged.loss))
        return min(fitting, key=lambda point: point.judged.loss)

    # ---- grow -------------------------------------------------------------------------------------------------------

    def grow(self) -> bool:
        """Run a round of growth; return False if no nomination lowers the loss."""
        left = (self.config.edges or self.graph.n_edges) - self.point.n_edges
        room = min(self.config.grow, left)
        if room < 1:
            return False
        kept = self.growth.larger(self.point, room, left)
        if kept is None:
            return False
        self.move("grow", kept)
        return True

    # ---- prune ------------------------------------------------------------------------------------------------------

    def prune_on(self) -> None:
        """Prune round after round, at a rising price while the targets hold, until no further edge is dropped."""
        price = self.config.price
        while self.prune(price):
            price *= 1 if not self.reached(self.point) else 2

    def shrink(self) -> None:
        """Prune at a rising price, even if the targets fail, down to the requested number of edges."""
        price = self.growth.price
        while self.config.edges is not None and (over := self.point.n_edges - self.config.edges) > 0:
            kept = self.without_cheapest(price, over)
            if torch.equal(kept, self.point.kept):
                price *= 4
            else:
                self.move("prune", kept)

    def prune(self, price: float) -> bool:
        """Run a round of pruning; return False if no edge is dropped, or if the round is reverted."""
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
        """The loss added by cutting each edge of a circuit alone; measured once."""
        key = digest(kept)
        if key not in self._measured_costs:
            at, columns = self.search.batches.at(kept), kept.any(0).nonzero().flatten().tolist()
            writers = {column: kept[:, column].nonzero().flatten().tolist() for column in columns}
            units = [(f"{key}/losses without/{self.graph.readers[column]}", column) for column in columns]
            losses, loss = each(self.journal, units, lambda column: without_each(at, column, writers[column])), at.loss()
            self._measured_costs[key] = [
                Cost(float(change.mean()), at_most(change), (row, column))
                for column, found in zip(columns, losses, strict=True)
                for row, change in zip(writers[column], found.to(loss.device) - loss, strict=True)
            ]
            self.prunings += len(self._measured_costs[key])
        return self._measured_costs[key]

    def without_cheapest(self, price: float, most: int | None = None) -> Bool[Tensor, "writer reader"]:
        """The circuit without edges that cost less than ``price``, cheapest first, each measured again before it is dropped.

        Args:
            most: maximum number of dropped edges; None for the share of one round.
        """
        kept = self.point.kept
        found, at = self.costs(kept), self.search.batches.at(kept)
        loss, left = at.loss(), min(max(1, int(_AT_ONCE * len(found))), most or len(found))
        for _, (row, column) in sorted((cost.at_most, cost.cell) for cost in found if cost.at_most < price):
            if not left:
                break
            trial = kept.clone()
            trial[row, column] = False
            then = at.map(lambda engine: engine.commit(trial, [column]))  # noqa: B023 - called at once
            after = then.loss()
            self.prunings += 1
            if at_most(after - loss) < price:
                kept, at, loss, left = trial, then, after, left - 1
        return Circuit(self.graph, kept).prune().kept


def one_of_several(state: Refinement, point: Point) -> str:
    """A text that names edges which cost nothing to cut until a round of pruning dropped others; empty if there are none.

    Either set could be cut alone but not both: some of the dropped edges are substitutes for the kept ones.
    """
    told = list[str]()
    for before, after in pairwise(state.points[: state.points.index(point) + 1]):
        if after.action == "prune":
            free = {cost.cell for cost in state.costs(before.kept) if cost.at_most < state.growth.price}
            needed = [cost.cell for cost in state.costs(after.kept) if cost.mean >= _NEEDED and point.kept[cost.cell]]
            kept, dropped = (
                [cell for cell in needed if cell in free],
                [*map(tuple, (before.kept & ~after.kept).nonzero().tolist())],
            )
            told += [f"{_names(state.graph, kept)} instead of {_names(state.graph, dropped)}"] if kept else []
    return "; ".join(told)


def _names(graph: Graph, cells: list[tuple[int, int]]) -> str:
    more = f" (and {len(cells) - _NAMED:,} more)" if len(cells) > _NAMED else ""
    return ", ".join(str(graph.edge(*cell)) for cell in cells[:_NAMED]) + more
