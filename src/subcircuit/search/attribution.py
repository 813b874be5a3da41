"""The shared part of all gradient methods: first-order effects of cutting edges, at one run of the model or at several.

    score(w → r) = mean over runs of Σ (ablated(w) − clean(w)) · dL/d input(r)        summed over positions and d_model

Methods differ in the runs at which the loss is differentiated. Scores of examples are independent and are summed over batches
in float64, so the result does not depend on the batch size.

First-order effects per example, which are attribution scores before averaging over examples:

    effect(w → r, example) = (ablated(w) − clean(w)) · dL_example/d input(r)        [clean run]

Their mean over examples is the score of ``eap`` with the same metric.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.ablation import AblatedBatch, Resample, ablated_by_batch
from subcircuit.engine.gradients import Contrast, Streams, UnitGradient, contrast, reader_gradients
from subcircuit.engine.memory import in_parts
from subcircuit.engine.readout import readout_of
from subcircuit.entry import entry
from subcircuit.errors import NoGradientError, SettingsError
from subcircuit.model.components import unembed
from subcircuit.search.journal import FORGETFUL, Journal, each
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, ProgressCounter
from subcircuit.tasks import Answers, Bound, Metric, metric, with_positions
from subcircuit.units.gradients import GRADIENTS, Rules
from subcircuit.units.rows import RowSet

# differences of all writers are the largest tensor of a search
_NUMBERS_AT_ONCE = 2**25
WITHOUT_CLEAN_GRADIENT = "eap-ig-inputs, clean-corrupted, exact or acdc"


@dataclass(frozen=True, eq=False)
class GradientProbe:
    """A batch of examples: clean and ablated runs, and the loss.

    Args:
        share: 1 / number of examples of the whole task.
    """

    contrast: Contrast
    answers: Answers
    metric: Bound
    share: float

    def __len__(self) -> int:
        return self.answers.n_examples

    def by_example(self, values: Float[Tensor, "writer row"], positions: RowSet) -> Float[Tensor, "writer batch"]:
        """Sums over each example's rows, in float64."""
        sums = torch.zeros(len(values), len(self), dtype=torch.float64, device=values.device)
        return sums.index_add(1, positions.flat // self.contrast.rows.n_pos, values.double())

    def at_logits(self, streams: Streams, rules: Rules = GRADIENTS) -> Float[Tensor, "batch pos d_model"]:
        """The gradient of the task's mean loss with respect to the last stream of a run, or of several concatenated runs."""
        gradients = [self._at_last(last, rules) for last in streams[-1].split(len(self))]
        return gradients[0] if len(gradients) == 1 else torch.cat(gradients)

    def _at_last(self, stream: Float[Tensor, "batch pos d_model"], rules: Rules) -> Float[Tensor, "batch pos d_model"]:
        model, last = self.contrast.model, stream.detach().requires_grad_()
        with torch.enable_grad():
            logits = unembed(model.config, model.weights, self.answers.rows(last), nonlinear=rules.nonlinear)
            loss = self.answers.per_example(self.metric(readout_of(logits, self.metric.needs))).sum() * self.share
        return torch.autograd.grad(loss, last)[0]

    def gradients(self, streams: Streams, rules: Rules = GRADIENTS) -> Iterator[UnitGradient]:
        """Gradients of the task's mean loss at a run, unit by unit from the logits backwards."""
        return reader_gradients(self.contrast.model, self.contrast.graph, streams, self.at_logits(streams, rules), rules)


@dataclass(frozen=True)
class Watch:
    """Callbacks and storage for a sum over batches.

    Args:
        settings: settings of the search; they distinguish its units of work from those of other searches.
        rounds: number of times each example is run.
        on_step: called after every round.
        journal: stores the result of every batch.
    """

    settings: object
    rounds: int = 1
    on_step: OnProgress | None = None
    journal: Journal = FORGETFUL


def summed(
    problem: Problem,
    batch_size: int | None,
    share: Callable[[GradientProbe, ProgressCounter], Float[Tensor, "..."]],
    watch: Watch,
) -> Float[Tensor, "..."]:
    """The sum over the batches of a problem, in order.

    Args:
        batch_size: examples at once; None chooses by memory.
        share: computes a batch's part of the sum, in float64 on the CPU, as one unit of work; reports every round.
        watch: receives the rounds and stores the parts.

    Raises:
        NoGradientError: the sum is zero everywhere.
    """
    model, graph = problem.model, problem.graph
    task, size = problem.task, examples_at_once(problem, batch_size)
    rounds = ProgressCounter(len(task) * watch.rounds, watch.on_step)
    by_batch = ablated_by_batch(model, graph, task.corrupted, problem.ablation)
    total: Tensor | None = None

    def some(examples: range) -> Tensor:
        return share(_probe(problem, slice(examples.start, examples.stop), by_batch), rounds)

    def work(examples: slice) -> Tensor:
        return in_parts(some, range(examples.start, examples.stop), torch.add)

    batches = list(_batches(problem, size))
    units = [(f"{watch.settings}/examples {examples.start} to {examples.stop}", examples) for examples in batches]
    for examples, part in zip(batches, each(watch.journal, units, work), strict=True):
        total = part if total is None else total + part
        rounds.reach(examples.stop * watch.rounds)
    assert total is not None
    check_not_all_zero(problem, total)
    return total


def probes(problem: Problem, batch_size: int | None) -> Iterator[GradientProbe]:
    """The examples of a problem, one batch at a time.

    Args:
        batch_size: examples at once; None chooses by memory.
    """
    model, graph = problem.model, problem.graph
    by_batch = ablated_by_batch(model, graph, problem.task.corrupted, problem.ablation)
    for examples in _batches(problem, examples_at_once(problem, batch_size)):
        yield _probe(problem, examples, by_batch)


def _batches(problem: Problem, size: int) -> Iterator[slice]:
    count = len(problem.task)
    return (slice(begin, min(begin + size, count)) for begin in range(0, count, size))


def _probe(problem: Problem, examples: slice, by_batch: AblatedBatch) -> GradientProbe:
    model, graph = problem.model, problem.graph
    task, part = problem.task, with_positions(graph, problem.task[examples])
    # the probe itself runs the corrupted prompts, because it also needs their streams
    ablated = part.corrupted if isinstance(problem.ablation, Resample) else by_batch(part.corrupted, examples.start)
    answers = part.answers
    run = contrast(model, graph, part.clean, ablated, problem.first_changes()[examples], answers.example, answers.pos)
    reference = unembed(model.config, model.weights, answers.rows(run.streams[-1])) if problem.metric.compares else None
    return GradientProbe(run, answers, problem.metric.bind(answers, reference), 1 / len(task))


def attribute(
    problem: Problem,
    batch_size: int | None,
    runs: Callable[[GradientProbe], Iterable[Streams]],
    watch: Watch,
    rules: Rules = GRADIENTS,
) -> Float[Tensor, "writer reader"]:
    """The score of every edge.

    Args:
        batch_size: examples at once; None chooses by memory.
        runs: the runs of a batch at which the loss is differentiated; several may be concatenated along the batch axis.
        watch: its ``rounds`` is the number of these runs.
        rules: how gradients pass through nonlinear functions.
    """
    graph = problem.graph
    check_differentiable(problem)

    def share(probe: GradientProbe, rounds: ProgressCounter) -> Float[Tensor, "writer reader"]:
        scores = torch.zeros(graph.edges.shape, dtype=torch.float64)
        for streams in runs(probe):
            for gradient in probe.gradients(streams, rules):
                effects = probe.contrast.effects(gradient).cpu()
                scores[: len(effects), list(gradient.readers)] += effects / watch.rounds
            rounds.done(len(streams[-1]))
        return scores

    return summed(problem, batch_size, share, watch)


def examples_at_once(problem: Problem, batch_size: int | None) -> int:
    """Number of examples per batch: the given one, or one that keeps the differences of all writers small."""
    model, graph = problem.model, problem.graph
    numbers = len(graph.writers) * problem.task.clean.ids.shape[1] * model.config.d_model
    return min(batch_size or max(1, _NUMBERS_AT_ONCE // numbers), len(problem.task))


def check_differentiable(problem: Problem) -> None:
    """Check that the metric has gradients.

    Raises:
        NoGradientError: the metric counts, so its gradient is zero.
    """
    _refuse_count(problem, "logit_difference or kl_divergence", ", or a method without gradients such as exact")


def check_gradient_at_clean(problem: Problem, methods: bool = True) -> None:
    """Check that the metric has a gradient at the clean run, for methods that differentiate only there.

    Args:
        problem: the problem with the metric.
        methods: whether the caller can choose another method; the error then suggests some.

    Raises:
        NoGradientError: the metric counts, or it is a distance from the model, whose minimum is the clean run.
    """
    way = metric_with_gradient(problem).name
    _refuse_count(problem, way, ", or a method without gradients such as exact" if methods else "")
    if problem.metric.distance:
        further = f", or a method that does not need this gradient: {WITHOUT_CLEAN_GRADIENT}" if methods else ""
        raise NoGradientError(
            f"{problem.metric.name} is a distance from the model's own logits. Its gradient is zero in the model's own run, so every "
            f"score would be 0. Use metric {way}{further}."
        )


def _refuse_count(problem: Problem, metrics: str, methods: str) -> None:
    if not problem.metric.differentiable:
        raise NoGradientError(
            f"{problem.metric.name} is a count, so its gradient is zero everywhere: use metric {metrics}{methods}."
        )


def metric_with_gradient(problem: Problem) -> Metric:
    """The problem's metric if it has a gradient at the clean run. Otherwise the logit difference, or without wrong answers the
    likelihood of the right one."""
    own = problem.metric
    if own.differentiable and not own.distance:
        return own
    contrasts = problem.task.answers.contrasts
    return metric("logit_difference" if contrasts else "negative_log_likelihood")


def check_not_all_zero(problem: Problem, scores: Float[Tensor, "..."], methods: bool = True) -> None:
    """Check that some score differs from zero.

    Args:
        problem: the problem that was scored.
        scores: scores of edges, or of neurons.
        methods: whether the caller can choose another method; the error then suggests some.

    Raises:
        NoGradientError: all scores are zero.
    """
    if not bool(scores.any()):
        further = f", a method that does not need this gradient ({WITHOUT_CLEAN_GRADIENT})," if methods else ""
        raise NoGradientError(
            f"every score is 0 on the {len(problem.task)} pairs of {problem.task.name}: either {problem.metric.name} has no gradient in the "
            f"runs that this method differentiates, or cut edges carry the same values as in the clean run. Use another metric{further} "
            f"or corrupted prompts that differ more."
        )


def check_batch_size(batch_size: int | None) -> None:
    """Check that the batch size is None or at least 1.

    Raises:
        SettingsError: it is smaller.
    """
    if batch_size is not None and batch_size < 1:
        raise SettingsError(f"batch_size is {batch_size}: it must be at least 1, or None to choose by memory")


@entry
def effects_by_example(problem: Problem) -> Iterator[Float[Tensor, "writer reader"]]:
    """First-order effects of cutting every edge, one example after the other; 0 at pairs without an edge.

    Raises:
        SettingsError: the metric has no gradients.
    """
    graph = problem.graph
    check_gradient_at_clean(problem, methods=False)
    for probe in probes(problem, batch_size=1):
        effects = torch.zeros(graph.edges.shape, dtype=torch.float64)
        for gradient in probe.gradients(probe.contrast.streams):
            at_unit = probe.contrast.effects(gradient).cpu()
            effects[: len(at_unit), list(gradient.readers)] = at_unit / probe.share
        yield effects.masked_fill(~graph.edges, 0.0)
