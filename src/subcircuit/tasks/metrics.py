"""Metrics: how well logits at the answers' positions carry out a behaviour.

p is the model's next-token distribution at an answer, q the circuit's, z the circuit's logits, both over the whole
vocabulary. Values are per answer and float64; the mean is over an example's answers first, then over examples
(`Answers.mean`). A search minimises the *loss-like* value, sign × value, with sign −1 where higher is better.
Natural logarithms: divergences are in nats. NaN and infinity pass through; the caller reports them.

    kl_divergence           Σ p log(p / q)                   Conmy et al. 2023, arXiv 2304.14997
    js_divergence           ½ Σ p log(p / m) + ½ Σ q log(q / m),   m = (p + q) / 2
    logit_difference        mean z(correct) − mean z(wrong)  Wang et al. 2022, arXiv 2211.00593
    probability_difference  mean q(correct) − mean q(wrong)
    greater_than            Σ q(correct) − Σ q(wrong)        Hanna et al. 2023, arXiv 2305.00586; right: years > y, wrong: ≤ y
    negative_log_likelihood −log Σ q(correct)
    accuracy                1 where the lowest correct logit lies above the highest wrong one, else 0; a tie is 0
    squared_error           Σ (z − the model's logits)²      for models whose logits are numbers (Lindner et al. 2023, arXiv 2301.05062)
    match                   1 where circuit and model rank the same token first, else 0; of tied tokens the lowest id is first
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subcircuit.engine.readout import BoundMetric, Needs, Readout, read
from subcircuit.errors import SettingsError, UnknownNameError
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.task import Answers

Measure: TypeAlias = Callable[[Readout], Float[Tensor, "*trial answer"]]
Reference: TypeAlias = Float[Tensor, "answer vocab"] | None
Prepare: TypeAlias = Callable[[Answers, Reference], tuple[Needs, Measure]]


@dataclass(frozen=True, eq=False)
class Bound:
    """A metric with a batch's answers; a `BoundMetric`.

    Args:
        needs: what to read from the last residual stream.
        sign: 1 where lower values are better, −1 where higher ones are.
        measure: the metric's own value of a readout.
    """

    needs: Needs
    sign: int
    measure: Measure

    def __repr__(self) -> str:
        return f"Bound(sign {self.sign:+d})"

    def __call__(self, readout: Readout) -> Float[Tensor, "*trial answer"]:
        """The loss-like value of each answer."""
        return self.sign * self.measure(readout)


@dataclass(frozen=True)
class Metric:
    """A metric, independent of any task.

    Args:
        name: for the command line and records.
        description: one line.
        direction: whether lower or higher values are better.
        prepare: maps answers and reference to the logits to read and the function that measures them. It is pickled for other
            processes, so it cannot be a nested function.
        compares: needs the model's own logits as reference.
        contrasts: needs wrong answers.
        differentiable: False for counts, on which gradients are zero.
        distance: the metric is a distance from the model's own logits. It has its minimum at the whole model, where its
            gradient is zero.
    """

    name: str
    description: str
    direction: Literal["lower", "higher"]
    prepare: Prepare
    compares: bool = False
    contrasts: bool = False
    differentiable: bool = True
    distance: bool = False

    def __repr__(self) -> str:
        return f"Metric({self.name}: {self.direction} is better)"

    @property
    def sign(self) -> int:
        """The sign s in loss-like value = s × value, and value = s × loss-like value."""
        return 1 if self.direction == "lower" else -1

    def value(self, loss: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The metric's own values of loss-like ones."""
        return self.sign * loss + 0.0  # no -0.0 in tables

    def mean(self, losses: Float[Tensor, " batch"]) -> float:
        """The metric's own mean of loss-like values of examples."""
        return float(self.value(losses.mean()))

    def bind(self, answers: Answers, reference: Reference = None) -> Bound:
        """The metric on these answers.

        Args:
            answers: of the batch whose readouts will be measured.
            reference: the model's own logits at the answers; only metrics that compare use them.

        Raises:
            SettingsError: an answer without wrong tokens, or no reference, where the metric needs them.
        """
        if self.contrasts:
            self._check_wrong(answers)
        if self.compares and reference is None:
            raise SettingsError(
                f"metric {self.name} compares a run with the model: pass the model's own logits at the answers as `reference`."
            )
        needs, measure = self.prepare(answers, reference)
        return Bound(needs, self.sign, measure)

    def _check_wrong(self, answers: Answers) -> None:
        missing = ~answers.wrong_mask.any(-1)
        if missing.any():
            example = int(answers.example[missing][0])
            raise SettingsError(
                f"metric {self.name} compares right with wrong answers, and pair {example + 1} has no wrong answer. "
                f"Add `wrong_answers`, or use {' or '.join(m.name for m in METRICS.values() if not m.contrasts)}."
            )


def example_losses(
    model: Transformer, answers: Answers, bound: BoundMetric, stream: Float[Tensor, "*trial answer d_model"]
) -> Float[Tensor, "*trial batch"]:
    """Loss-like value of each example, of last residual streams at the rows of its answers; differentiable where the streams are."""
    return answers.per_example(bound(read(model, stream, bound.needs)))


def metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UnknownNameError: no such metric; the nearest names are suggested.
    """
    if name not in METRICS:
        raise UnknownNameError("metric", name, tuple(METRICS))
    return METRICS[name]


def _kl_divergence(answers: Answers, reference: Reference) -> tuple[Needs, Measure]:
    log_p = _log_softmax(reference)
    p = log_p.exp()
    # torch.special.entr is 0 at p = 0: a probability that underflows contributes nothing
    entropy = torch.special.entr(p).sum(-1)

    def measure(readout: Readout) -> Float[Tensor, "*trial answer"]:
        return _normalizer(readout) - present(readout.mixture).double() - entropy

    return Needs(normalizer=True, mixture=p), measure


def _js_divergence(answers: Answers, reference: Reference) -> tuple[Needs, Measure]:
    log_p = _log_softmax(reference)

    def one(log_p: Float[Tensor, " vocab"], logits: Float[Tensor, "*trial vocab"]) -> Float[Tensor, "*trial"]:
        log_q = _log_softmax(logits)
        log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0, dtype=torch.float64))
        return 0.5 * (_divergence(log_p, log_m) + _divergence(log_q, log_m))

    def measure(readout: Readout) -> Float[Tensor, "*trial answer"]:
        # answer by answer: float64 copies of all logits at once would be the largest tensors of a run
        return torch.stack([one(p, logits) for p, logits in zip(log_p, present(readout.logits).unbind(-2), strict=True)], -1)

    return Needs(logits=True), measure


def _contrast(
    read: Callable[[Readout], Float[Tensor, "*trial answer column"]],
    over: Callable[[Float[Tensor, "*trial answer option"], Bool[Tensor, "answer option"]], Float[Tensor, "*trial answer"]],
    answers: Answers,
    reference: Reference,
) -> tuple[Needs, Measure]:
    """Mean or sum of the right answers' numbers minus that of the wrong ones'."""
    columns, correct, wrong = _columns(answers)

    def measure(readout: Readout) -> Float[Tensor, "*trial answer"]:
        values = read(readout)
        return over(_take(values, correct), answers.correct_mask) - over(_take(values, wrong), answers.wrong_mask)

    return Needs(columns=columns, normalizer=read is _probabilities), measure


def _negative_log_likelihood(answers: Answers, reference: Reference) -> tuple[Needs, Measure]:
    columns, correct, _ = _columns(answers)

    def measure(readout: Readout) -> Float[Tensor, "*trial answer"]:
        z = _take(_logits(readout), correct)
        return _normalizer(readout) - z.masked_fill(~answers.correct_mask, float("-inf")).logsumexp(-1)

    return Needs(columns=columns, normalizer=True), measure


def _accuracy(answers: Answers, reference: Reference) -> tuple[Needs, Measure]:
    columns, correct, wrong = _columns(answers)

    def measure(readout: Readout) -> Float[Tensor, "*trial answer"]:
        z = _logits(readout)
        lowest = _take(z, correct).masked_fill(~answers.correct_mask, float("inf")).amin(-1)
        highest = _take(z, wrong).masked_fill(~answers.wrong_mask, float("-inf")).amax(-1)
        # a comparison alone would turn NaN into "wrong"
        return (lowest > highest).double().masked_fill((lowest - highest).isnan(), float("nan"))

    return Needs(columns=columns), measure


def _match(answers: Answers, reference: Reference) -> tuple[Needs, Measure]:
    assert reference is not None
    best = reference.argmax(-1)

    def measure(readout: Readout) -> Float[Tensor, "*trial answer"]:
        logits = present(readout.logits)
        same = (logits.argmax(-1) == best).double()
        return same.masked_fill(logits.isnan().any(-1), float("nan"))

    return Needs(logits=True), measure


def _squared_error(answers: Answers, reference: Reference) -> tuple[Needs, Measure]:
    expected = present(reference).double()

    def measure(readout: Readout) -> Float[Tensor, "*trial answer"]:
        return (present(readout.logits).double() - expected).square().sum(-1)

    return Needs(logits=True), measure


def _columns(answers: Answers) -> tuple[Int[Tensor, " column"], Int[Tensor, "answer correct"], Int[Tensor, "answer wrong"]]:
    """The tokens of all answers, without repetition, and the index of each answer's tokens among them."""
    named = torch.cat([answers.correct[answers.correct_mask], answers.wrong[answers.wrong_mask]]).unique()
    # padding may point anywhere that exists: masks drop it
    last = len(named) - 1
    correct, wrong = (torch.searchsorted(named, ids).clamp(max=last) for ids in (answers.correct, answers.wrong))
    return named, correct, wrong


def _take(
    columns: Float[Tensor, "*trial answer column"], which: Int[Tensor, "answer option"]
) -> Float[Tensor, "*trial answer option"]:
    return columns.gather(-1, which.expand(*columns.shape[:-1], -1))


def _sum(values: Float[Tensor, "*trial answer option"], mask: Bool[Tensor, "answer option"]) -> Float[Tensor, "*trial answer"]:
    return torch.where(mask, values, 0).sum(-1)


def _mean(values: Float[Tensor, "*trial answer option"], mask: Bool[Tensor, "answer option"]) -> Float[Tensor, "*trial answer"]:
    return _sum(values, mask) / mask.sum(-1)


def _logits(readout: Readout) -> Float[Tensor, "*trial answer column"]:
    return present(readout.columns).double()


def _probabilities(readout: Readout) -> Float[Tensor, "*trial answer column"]:
    return (_logits(readout) - _normalizer(readout)[..., None]).exp()


def _normalizer(readout: Readout) -> Float[Tensor, "*trial answer"]:
    return present(readout.normalizer).double()


def _log_softmax(logits: Float[Tensor, "*rows vocab"] | None) -> Float[Tensor, "*rows vocab"]:
    return present(logits).double().log_softmax(-1)


def _divergence(log_p: Float[Tensor, "*#rows vocab"], log_q: Float[Tensor, "*#rows vocab"]) -> Float[Tensor, "*rows"]:
    """KL(p || q) in nats; a token that p never gives adds nothing."""
    p = log_p.exp()
    return torch.where(p == 0, 0, p * (log_p - log_q)).sum(-1)


def present(tensor: Tensor | None) -> Tensor:
    """A part of a readout that the metric's ``Needs`` requested."""
    assert tensor is not None, "the readout lacks what the metric said it needs"
    return tensor


_KL = "how far the circuit's next-token distribution is from the model's, in nats"
_JS = "a symmetric, bounded distance between the circuit's and the model's next-token distributions, in nats"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("kl_divergence", _KL, "lower", _kl_divergence, compares=True, distance=True),
        Metric("js_divergence", _JS, "lower", _js_divergence, compares=True, distance=True),
        Metric(
            "logit_difference",
            "mean logit of right answers minus mean logit of wrong ones",
            "higher",
            partial(_contrast, _logits, _mean),
            contrasts=True,
        ),
        Metric(
            "probability_difference",
            "mean probability of right answers minus mean probability of wrong ones",
            "higher",
            partial(_contrast, _probabilities, _mean),
            contrasts=True,
        ),
        Metric(
            "greater_than",
            "total probability of right answers minus that of wrong ones",
            "higher",
            partial(_contrast, _probabilities, _sum),
            contrasts=True,
        ),
        Metric("negative_log_likelihood", "minus log probability of a right answer, in nats", "lower", _negative_log_likelihood),
        Metric(
            "accuracy",
            "share of answers whose right tokens all outrank the wrong ones",
            "higher",
            _accuracy,
            contrasts=True,
            differentiable=False,
        ),
        Metric(
            "squared_error",
            "squared distance of the circuit's logits from the model's",
            "lower",
            _squared_error,
            compares=True,
            distance=True,
        ),
        Metric(
            "match",
            "share of answers where circuit and model rank the same token first",
            "higher",
            _match,
            compares=True,
            differentiable=False,
        ),
    )
}
