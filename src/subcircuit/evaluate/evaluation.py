"""Evaluation of one circuit: a judgement on held-out prompts, and its numbers on each part of a split.

A judgement measures

    faithfulness, KL, accuracy      behaviour of the circuit alone (`faithfulness.py`)
    completeness                    f(M∖C), behaviour of the model without the circuit (`completeness.py`)
    random circuits                 f of random connected circuits with as many edges, a baseline (`controls.py`)
    CPR, CMD                        quality of the ranking that the circuit comes from (`curves.py`)

Cost: a masked forward pass, about three plain ones, for each of: model, ∅, C, M∖C, every random circuit, and the ten
sizes of the curve.

A split has search prompts, and test prompts that no choice used. The result on search prompts shows how well the search fitted
its prompts. The result on test prompts estimates the circuit's behaviour on new prompts: a circuit found on few prompts does
better on them than on others. Cost: for each part a masked forward pass, about three plain ones, of the model, of the circuit
and of the circuit without edges.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import Any, cast, overload

import numpy as np

from subcircuit.engine import OPTIMAL, Ablation, Mean
from subcircuit.entry import entry
from subcircuit.errors import GraphError, NumericalError, PromptMismatchError, SettingsError
from subcircuit.evaluate.bootstrap import Interval
from subcircuit.evaluate.completeness import complement
from subcircuit.evaluate.controls import random_circuit, random_connected_circuit
from subcircuit.evaluate.curves import PERCENTAGES, Curve, curve
from subcircuit.evaluate.faithfulness import Evaluation, evaluate_circuit, faithfulness
from subcircuit.evaluate.measure import Ends, measure, runs_of
from subcircuit.graph import By, Circuit, Graph, Numbers, Scope
from subcircuit.graph.selection import Selection
from subcircuit.model.transformer import Transformer
from subcircuit.search import Discovery, LearnOptimal, Method, OnProgress, Problem, ProgressCounter, find_circuit
from subcircuit.search.journal import FORGETFUL, Journal, Under
from subcircuit.search.method import MethodClass
from subcircuit.tasks import Metric, OwnMetric, Split, Task, check_vocabulary


@dataclass(frozen=True, eq=False)
class Judgement:
    """Metrics of a circuit, with the controls that their interpretation needs.

    Args:
        evaluation: its metrics beside the model's.
        completeness: f of the model without the circuit: 0 if the circuit lacks nothing, 1 if it holds nothing that matters, like
            an empty circuit.
        random: f of each random circuit of the same size.
        curve: curve of the ranking that the circuit comes from; None if an edge has no score, as after ACDC.
    """

    evaluation: Evaluation
    completeness: float
    random: tuple[float, ...]
    curve: Curve | None

    def __repr__(self) -> str:
        f = "undefined"
        with suppress(SettingsError):
            f = f"{self.evaluation.faithfulness:z.3f}"
        return (
            f"Judgement({self.evaluation}: faithfulness {f}, completeness {self.completeness:z.3f}, "
            f"{len(self.random)} random circuits {self.random_mean:z.3f}, {self.curve})"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the circuit on these prompts; empty if there are none."""
        f, n_edges = self.evaluation.faithfulness, self.evaluation.circuit.n_edges
        if not n_edges:
            return ("the circuit is empty, so its completeness is that of the whole model, 1.",)
        if f <= 0:
            return (
                f"the circuit does no better than the model with every edge cut on these prompts (faithfulness {f:.3g}). Search for more edges.",
            )
        return ()

    @property
    def random_mean(self) -> float:
        """The mean over random circuits."""
        return float(np.mean(self.random))

    @property
    def random_interval(self) -> Interval:
        """The central 95 % range of random circuits."""
        low, high = np.quantile(self.random, (0.025, 0.975))
        return Interval(float(low), float(high), 0.95)


@entry
def judge(
    problem: Problem,
    circuit: Circuit,
    *,
    random_circuits: int = 10,
    by: By = "signed",
    seed: int = 0,
    batch_size: int = 16,
    journal: Journal = FORGETFUL,
    on_step: OnProgress | None = None,
) -> Judgement:
    """The judgement of a circuit on held-out prompts.

    Args:
        problem: a problem whose prompts the search did not use.
        random_circuits: number of random circuits for comparison, at least one.
        by: ranking of scores for the curve.
        seed: random seed for the random circuits.
        batch_size: prompts that run together.
        journal: stores the losses of every batch of prompts.
        on_step: called after every run of every batch of prompts.

    Raises:
        GraphError: the circuit is another model's.
        SettingsError: faithfulness is undefined on these prompts, see `check_gap`.
    """
    if random_circuits < 1:
        raise SettingsError(f"random_circuits is {random_circuits}: it must be at least 1")
    ranked = circuit.scores is not None and bool(circuit.scores[circuit.graph.edges].isfinite().all())
    sizes = (1, 1 + random_circuits, *([len(PERCENTAGES)] if ranked else []))
    rounds = ProgressCounter(sum(runs_of(len(problem.task), size) for size in sizes), on_step, phase="measure")
    ends: Ends = {}
    evaluation = evaluate_circuit(problem, circuit, batch_size, journal, rounds, ends)
    others = [complement(circuit)] + [_random(circuit.graph, circuit.n_edges, seed + i) for i in range(random_circuits)]
    rest, *random = faithfulness(measure(problem, others, batch_size, journal, rounds, ends)).tolist()
    found = None
    if ranked and circuit.scores is not None:
        found = curve(problem, circuit.scores, by, batch_size, journal, rounds, ends)
    return Judgement(evaluation, rest, tuple(random), found)


def _random(graph: Graph, n_edges: int, seed: int) -> Circuit:
    """A random connected circuit, or any random circuit if no connected one of this size is found."""
    try:
        return random_connected_circuit(graph, n_edges, seed)
    except SettingsError:
        return random_circuit(graph, n_edges, seed)


# the reported parts; validation prompts were used for a choice
REPORTED = ("test", "search")


@overload
def discover(
    problem: Problem,
    method: Method | MethodClass | str,
    /,
    *,
    selection: Selection | int | None = None,
    on_step: OnProgress | None = None,
    journal: Journal = FORGETFUL,
) -> Discovery: ...


@overload
def discover(
    model: Transformer,
    task: Task | Split,
    method: Method | MethodClass | str,
    *,
    metric: str | Metric | OwnMetric | None = None,
    ablation: str | Ablation | LearnOptimal | None = None,
    scope: Scope | str | None = None,
    selection: Selection | int | None = None,
    on_step: OnProgress | None = None,
    journal: Journal = FORGETFUL,
) -> Discovery: ...


@entry
def discover(
    model: Transformer | Problem,
    task: Task | Split | Method | MethodClass | str,
    method: Method | MethodClass | str | None = None,
    *,
    metric: str | Metric | OwnMetric | None = None,
    ablation: str | Ablation | LearnOptimal | None = None,
    scope: Scope | str | None = None,
    selection: Selection | int | None = None,
    on_step: OnProgress | None = None,
    journal: Journal = FORGETFUL,
) -> Discovery:
    """Find the circuit of a problem: ``discover(problem, method)``; for short of a model and a task: ``discover(model, task, method)``.

    Args:
        model: from ``load_model``; or a problem, which has a task, a metric, an ablation and a scope already.
        task: from ``load_task``, made for this model: the search uses all its prompts. From ``load_split``: the search uses the search
            prompts, and methods that choose a circuit may use the validation prompts. The circuit's record then lists the prompts
            of each part, and holds results on test and search prompts under ``results["test"]`` and ``results["search"]``.
        method: such as ``Acdc(threshold=0.02)`` or ``Eap()``, one of your own (see ``Method``), or a name, for the defaults.
        metric: a name, a ``Metric``, or a Python function (see ``own_metric``); None is the task's own metric.
        ablation: the value that cut edges carry, by name or as a value; None is "resample". With "optimal", or settings of learning,
            constants are learned first and kept with the circuit.
        scope: level at which the model is resolved, as a value or as text; queries, keys and values of every head by default.
        selection: rule that selects edges by their scores; a number selects that many edges of largest magnitude, None 1 % of them.
            Edges on no path from an embedding to the logits are pruned. Methods that find a circuit themselves accept no selection.
        on_step: called after every batch of trials or of examples.
        journal: stores intermediate results, so that an interrupted search can resume.

    Raises:
        UnknownNameError: no such method, metric, ablation or scope.
        NoGradientError: a metric that has no gradient where the method takes one.
        SettingsError, GraphError: settings that do not go together with the model or task, or that a problem has already.
        NumericalError: a loss or score that is NaN or infinite.

    Examples:
        >>> found = discover(model, load_split("ioi", model, examples=32), Acdc(threshold=0.02))  # doctest: +SKIP
        >>> found.circuit.record.results["test"]["faithfulness"]  # doctest: +SKIP
        0.75
    """
    search = partial(find_circuit, selection=selection, on_step=on_step, journal=journal)
    if isinstance(model, Problem):
        if method is not None or metric is not None or ablation is not None or scope is not None:
            raise SettingsError(
                "discover(problem, method): the problem already has a task, a metric, an ablation and a scope. To change one of them, make another "
                "problem with Problem.of(…)."
            )
        return search(model, cast(Method, task))
    if not isinstance(task, Task | Split):
        raise SettingsError(
            f"discover: task must be a Task or a Split, not a {type(task).__name__}: load_task(…) and load_split(…) return one."
        )
    learning = LearnOptimal() if ablation == OPTIMAL else ablation if isinstance(ablation, LearnOptimal) else None
    problem = Problem.of(model, task, metric, Mean() if learning else cast(str | Ablation | None, ablation), scope)
    split = task if isinstance(task, Split) else None
    if split is None:
        return search(problem, cast(Method, method), learning=learning)
    return discover_split(
        problem, cast(Method, method), split, selection=selection, learning=learning, on_step=on_step, journal=journal
    )


@entry
def discover_split(
    problem: Problem,
    method: Method | MethodClass | str,
    split: Split,
    *,
    selection: Selection | int | None = None,
    learning: LearnOptimal | None = None,
    on_step: OnProgress | None = None,
    journal: Journal = FORGETFUL,
) -> Discovery:
    """The circuit of a problem, with its results on the test and search prompts of a split in its record.

    Args:
        split: prompts of all parts; the problem's prompts are its search prompts.
        learning: settings for learning constants first, which replace the problem's ablation.
        method, selection, on_step, journal: as in ``discover``.

    Raises:
        UnknownNameError, NoGradientError, SettingsError, GraphError, NumericalError: as ``discover``.
        PromptError: the split's prompts were made for a model with another tokenizer.
    """
    found = find_circuit(problem, method, selection=selection, learning=learning, split=split, on_step=on_step, journal=journal)
    # constants learned in the search are part of the circuit
    ablation = OPTIMAL if learning else problem.ablation
    measured = Problem.of(problem.model, split.search, problem.metric, ablation, circuit=found.circuit)
    return replace(found, circuit=with_numbers(measured, found.circuit, split, journal=journal, on_step=on_step))


@entry
def with_numbers(
    problem: Problem,
    circuit: Circuit,
    split: Split,
    batch_size: int = 16,
    journal: Journal = FORGETFUL,
    on_step: OnProgress | None = None,
) -> Circuit:
    """The circuit with results on the split's test and search prompts in its record; unchanged if it has no record.

    Args:
        problem: supplies the metric and the ablation; the prompts are those of the split.
        batch_size: prompts that run together.
        journal: stores the losses of every batch of prompts.
        on_step: called after every run of every batch of prompts.

    Raises:
        PromptError: the split's prompts were made for a model with another tokenizer.
        RunError, ShortOfMemoryError: the work cannot be done. Prompts on which the circuit cannot be measured are no error:
            the numbers are missing then and say why.
    """
    model = problem.model
    check_vocabulary(model, split.search)
    if circuit.record is None:
        return circuit
    there = {name: split.parts[name] for name in REPORTED if name in split.parts}
    rounds = ProgressCounter(sum(runs_of(len(task), 1) for task in there.values()), on_step, phase="measure")
    found: dict[str, Any] = dict.fromkeys(REPORTED)
    for name, task in there.items():
        on, part = replace(problem, task=task.to(model.device)), Under(journal, f"{name} prompts")
        found[name] = measured_on(on, circuit, batch_size, part, rounds).model_dump(mode="json")
    record = circuit.record.model_copy(update={"results": {**circuit.record.results, **found}})
    return replace(circuit, record=record)


def measured_on(
    problem: Problem, circuit: Circuit, batch_size: int = 16, journal: Journal = FORGETFUL, rounds: ProgressCounter | None = None
) -> Numbers:
    """The numbers of a circuit on a behaviour's prompts; undefined numbers are None, with the reason."""
    try:
        return numbers_of(evaluate_circuit(problem, circuit, batch_size, journal, rounds))
    except (GraphError, PromptMismatchError, NumericalError) as error:
        # prompts that do not line up with the graph's positions, or logits that overflow in half precision
        return Numbers(examples=len(problem.task), why=str(error))


def numbers_of(evaluation: Evaluation) -> Numbers:
    """The main numbers of an evaluation."""
    means = evaluation.means
    try:
        faithful, interval, why = evaluation.faithfulness, evaluation.faithfulness_interval(), None
    except SettingsError as error:
        faithful, interval, why = None, None, str(error)
    ends = None if interval is None or not (isfinite(interval.low) and isfinite(interval.high)) else (interval.low, interval.high)
    return Numbers(
        examples=len(evaluation.metric.model),
        faithfulness=faithful,
        interval=ends,
        kl=means["kl"],
        accuracy=means["accuracy"],
        top1=means["match"],
        why=why,
    )
