"""The loss of a refinement: how far a circuit is from the model, example by example and in both directions.

    J(C) = mean_i F_i + mean_i K_i
    F_i  = (m_i(C) − m_i(M))² / mean_j (m_j(M) − m_j(∅))²          m: the task's metric, ∅: every edge cut
    K_i  = KL(p_M ‖ p_C) / mean_j KL(p_M ‖ p_∅)                    at the answers of example i

Both terms are 0 for the model and 1 for the circuit without edges, so that they count alike whatever the metric's scale. F is
two-sided, so that a circuit gains nothing by beating the model, and it is taken per example, so that one example does not make
up for another. F alone leaves the rest of the distribution free. KL alone overshoots: a circuit of indirect object
identification in SmolLM2 reached 1.35 times the model's logit difference. The default is their sum.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.engine.readout import Needs, Readout, readout_of
from subcircuit.errors import SettingsError
from subcircuit.tasks import Answers, Metric, metric
from subcircuit.tasks.metrics import Measure, Reference

Terms: TypeAlias = Literal["both", "faithfulness", "kl"]


@dataclass(frozen=True)
class Units:
    """What the terms of the loss are measured in, on the prompts of the search.

    Args:
        gap: mean over examples of (m(M) − m(∅))².
        kl: mean KL(M ‖ ∅) in nats.
    """

    gap: float
    kl: float


def check_terms(terms: str) -> None:
    """The loss has such terms.

    Raises:
        SettingsError: it has not.
    """
    if terms not in get_args(Terms):
        raise SettingsError(f"loss is {terms!r}: choose {', '.join(get_args(Terms))}")


def objective(measured: Metric, units: Units, terms: Terms = "both") -> Metric:
    """J as a metric, so that everything that measures circuits measures J.

    Args:
        measured: the task's metric.
        units: of both terms.
        terms: which of the two terms count.
    """
    return Metric(
        f"refinement loss ({terms})",
        "squared distance of the metric from the model's, and KL divergence",
        "lower",
        partial(_loss, measured, units, terms),
        compares=True,
        contrasts=measured.contrasts,
        differentiable=measured.differentiable or terms == "kl",
    )


def _loss(measured: Metric, units: Units, terms: Terms, answers: Answers, reference: Reference) -> tuple[Needs, Measure]:
    assert reference is not None
    own, kl = measured.bind(answers, reference), metric("kl_divergence").bind(answers, reference)
    of_model = answers.per_example(own(readout_of(reference, own.needs)))

    def measure(readout: Readout) -> Float[Tensor, "*trial answer"]:
        zero = torch.zeros((), dtype=torch.float64, device=of_model.device)
        squares = zero
        if terms != "kl":
            squares = ((answers.per_example(own(readout)) - of_model).square() / units.gap)[..., answers.example]
        return squares + (zero if terms == "faithfulness" else kl(readout) / units.kl)

    return _both(own.needs if terms != "kl" else Needs(), kl.needs if terms != "faithfulness" else Needs()), measure


def _both(a: Needs, b: Needs) -> Needs:
    """What either needs; mixtures of two metrics that compare with the model are the same one."""
    columns = a.columns if a.columns is not None else b.columns
    mixture = a.mixture if a.mixture is not None else b.mixture
    return Needs(columns, a.normalizer or b.normalizer, mixture, a.logits or b.logits)
