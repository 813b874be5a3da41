"""Custom metrics: a Python function of the logits at the answers.

    f(logits, answers) -> one number for each answer, or for each example          logits: [answer, vocab]
    f(logits)          -> the same, for functions that need no answers

Every method, evaluation and figure accepts it. Methods that take gradients need a function made of torch operations on the
logits; the others (``acdc``, ``exact``) accept any function. It reads all logits, so each trial computes the whole unembedding.
"""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.readout import Needs, Readout
from subcircuit.errors import NoGradientError, SettingsError
from subcircuit.tasks.metrics import Measure, Metric, Reference, metric, present
from subcircuit.tasks.task import Answers

OwnMetric: TypeAlias = Callable[..., Any]
# not the name of any metric of the package, so that what is recorded cannot be taken for one
_OWN_PREFIX = "function "


def metric_of(asked: str | Metric | OwnMetric) -> Metric:
    """A metric, given as a name, a metric, or a Python function whose higher values are better.

    Raises:
        UnknownNameError: no metric of that name; the nearest names are suggested.
        SettingsError: the argument is none of these, or a record's name of a Python function, which must be passed itself.
    """
    if isinstance(asked, Metric):
        return asked
    if isinstance(asked, str):
        if asked.startswith(_OWN_PREFIX):
            raise SettingsError(f"the metric is a Python {asked}, and only its name is recorded: pass the function itself.")
        return metric(asked)
    if callable(asked):
        return own_metric(asked)
    raise SettingsError(
        f"metric is a {type(asked).__name__}: give a name, such as 'logit_difference', or a function of the logits."
    )


def own_metric(function: OwnMetric, direction: Literal["lower", "higher"] = "higher", name: str | None = None) -> Metric:
    """A Python function as a metric.

    Args:
        function: ``f(logits, answers)`` or ``f(logits)``; logits at the answers, [answer, vocab]. Returns a number for each answer
            or for each example.
        direction: whether lower or higher values are better.
        name: for records; None is the function's own.

    Raises:
        SettingsError: the function takes other arguments. The metric raises it later if the function returns something else.

    Examples:
        >>> own_metric(lambda logits: logits[:, 11] - logits[:, 12], name="eleven_over_twelve").direction
        'higher'
    """
    named = _OWN_PREFIX + (name or getattr(function, "__name__", type(function).__name__))
    takes_answers = _takes_answers(function, named)
    return Metric(named, f"a Python function: {direction} is better", direction, partial(_own, function, takes_answers, named))


def _own(function: OwnMetric, takes_answers: bool, name: str, answers: Answers, reference: Reference) -> tuple[Needs, Measure]:
    def one(logits: Float[Tensor, "answer vocab"]) -> Float[Tensor, " answer"]:
        return _checked(function(logits, answers) if takes_answers else function(logits), logits, answers, name)

    def measure(readout: Readout) -> Float[Tensor, "*trial answer"]:
        every = present(readout.logits)
        trials = every.reshape(-1, *every.shape[-2:])
        return torch.stack([one(logits) for logits in trials]).reshape(every.shape[:-1])

    return Needs(logits=True), measure


def _takes_answers(function: OwnMetric, name: str) -> bool:
    try:
        asked = signature(function)
    except ValueError:  # some builtins have none
        return False
    for count in (2, 1):
        try:
            asked.bind(*range(count))
        except TypeError:
            continue
        return count == 2
    raise SettingsError(f"metric {name} takes {asked}: it must take the logits at the answers, or the logits and the answers.")


def _checked(value: Any, logits: Tensor, answers: Answers, name: str) -> Float[Tensor, " answer"]:
    """One float64 number per answer."""
    sizes = (len(answers), answers.n_examples)
    if not isinstance(value, Tensor) or value.ndim != 1 or len(value) not in sizes or value.dtype.is_complex:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise SettingsError(
            f"metric {name} returned {got}: it must return a tensor of {sizes[0]}, one number for each answer, as in "
            "logits.max(-1).values. Do not average over answers: the library does this for each example."
        )
    if torch.is_grad_enabled() and logits.requires_grad and not value.requires_grad:
        raise NoGradientError(
            f"metric {name} has no gradient, and this method needs one: compute the metric with torch operations on the logits, or use a "
            "method without gradients, acdc or exact."
        )
    return (value if len(value) == sizes[0] else value[answers.example]).double()
