"""Confidence intervals by bootstrap over examples: bias-corrected and accelerated (BCa, Efron 1987).

Examples are drawn with replacement, as many as there are, and the statistic is computed on each such sample; the interval
runs between two quantiles of these values. BCa moves them from (1 ∓ level) / 2 to

    Φ(z₀ + (z₀ ∓ z) / (1 − a (z₀ ∓ z))),    z = Φ⁻¹((1 + level) / 2)

where z₀ corrects for the statistic's bias (how often a sample's value lies below the observed one) and a, from leaving out
one example after another, for an error that changes with the value. Where these are undefined (all samples alike) it is the
percentile interval. It says how much a number would vary with other examples of the same kind, and nothing about prompts of
another kind. With few examples it is too narrow.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from torch import Tensor

from subcircuit.errors import SettingsError

Statistic: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Args:
        low, high: its ends, both included.
        level: how often an interval made in this way holds the true value.
    """

    low: float
    high: float
    level: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def bootstrap(
    statistic: Statistic,
    samples: Sequence[Float[Tensor, " batch"]],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """The interval of a statistic of paired samples.

    Args:
        statistic: of as many arrays as there are samples, reduced along ``axis``, which it takes by that name.
        samples: values per example; the same examples are drawn from each of them.
        level: of confidence, between 0 and 1.
        resamples: samples drawn.
        seed: of drawing.

    Returns:
        None where there are fewer than two examples: one says nothing about others.

    Examples:
        >>> import torch
        >>> bootstrap(mean, [torch.tensor([1.0, 2.0, 3.0, 4.0])])
        Interval(low=1.5, high=3.5, level=0.95)
    """
    if not 0 < level < 1 or resamples < 1:
        raise SettingsError(f"level is {level} and resamples is {resamples}: level must be between 0 and 1, resamples at least 1")
    if len(samples[0]) < 2:
        return None
    # half a second, which commands that only show something need not wait
    from scipy import stats

    arrays = [sample.double().cpu().numpy() for sample in samples]
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of samples that are all alike: they have a percentile interval
            found = stats.bootstrap(
                arrays,
                statistic,
                n_resamples=resamples,
                vectorized=True,
                paired=True,
                confidence_level=level,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if isfinite(found.low) and isfinite(found.high):
            break
    return Interval(float(found.low), float(found.high), level)


def mean(values: Any, axis: int = -1) -> Any:
    """The mean, as a `Statistic`."""
    return np.mean(values, axis=axis)
