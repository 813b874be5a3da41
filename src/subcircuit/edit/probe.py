"""How much of a behaviour is left: a metric as a share of what the whole model has of it.

    share(M') = m(M') / m(M)        m: mean over examples of a metric that grows with the behaviour

so 1 is the model, 0 is indifference, and below 0 the model prefers what is wrong. It is no share in the sense of a part of a
whole: an edit may also make a behaviour stronger.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.edit.parts import Stream
from subcircuit.engine.readout import read
from subcircuit.errors import NumericalError, SettingsError
from subcircuit.model.transformer import Transformer
from subcircuit.tasks import Metric, Task, check_vocabulary
from subcircuit.tasks import metric as metric_named

_PROMPTS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Probe:
    """A behaviour, and how strong it is in the whole model.

    Args:
        model: whose final norm and unembedding read the stream; edits do not touch them.
        whole: the metric of the whole model, above 0.
    """

    model: Transformer
    task: Task
    metric: Metric
    whole: float

    @staticmethod
    @torch.no_grad()
    def of(model: Transformer, task: Task, metric: str | None = None) -> "Probe":
        """Measure the whole model.

        Args:
            metric: its name; None is the task's own if it grows with the behaviour, else the logit difference.

        Raises:
            SettingsError: the metric does not grow with the behaviour or has no gradients, the task has no wrong answers,
                or the model does not do the task.
            PromptError: the task was made for a model with another tokenizer.
        """
        check_vocabulary(model, task)
        chosen, task = telling(task, metric), task.to(model.device)
        whole = float(measure(model, task, chosen, model.stream))
        if not whole > 0:
            raise SettingsError(
                f"{model.name} does not do {task.name}: its {chosen.name.replace('_', ' ')} is {whole:.3g} on {len(task)} prompts, "
                "and shares of it mean nothing. Choose another task."
            )
        return Probe(model, task, chosen, whole)

    def share(self, run: Stream) -> Float[Tensor, ""]:
        """The metric of an edited model over that of the whole one, in float64; differentiable where the run is."""
        return measure(self.model, self.task, self.metric, run) / self.whole


def measure(model: Transformer, task: Task, metric: Metric, run: Stream) -> Float[Tensor, ""]:
    """A metric's mean over a task's examples, in its own sign and in float64.

    Raises:
        NumericalError: it is NaN or infinite.
    """
    losses = []
    for start in range(0, len(task), _PROMPTS_AT_ONCE):
        part = task[start : start + _PROMPTS_AT_ONCE]
        tokens = part.clean.until(int(part.answers.pos.max()) + 1) if model.config.causal else part.clean
        bound = metric.bind(part.answers)
        losses.append(part.answers.per_example(bound(read(model, part.answers.rows(run(tokens)), bound.needs))))
    value = metric.value(torch.cat(losses).mean())
    if not bool(value.isfinite()):
        raise NumericalError(f"{metric.name} of {task.name} is {float(value)} in {model.dtype}: load the model in float32")
    return value


def telling(task: Task, name: str | None) -> Metric:
    """A metric that says how much of a behaviour there is: it grows with it and has gradients.

    Raises:
        SettingsError: the one that is asked for does not, or there is none as answers have nothing to be set against.
        UnknownNameError: no such metric.
    """
    chosen = metric_named(name or task.metric)
    if chosen.direction == "higher" and chosen.differentiable and not chosen.compares:
        return chosen
    if name is not None:
        raise SettingsError(
            f"{name} cannot say how much of a capability is left: choose one that grows with it and has gradients, "
            "such as logit_difference or probability_difference."
        )
    if not bool(task.answers.wrong_mask.any(-1).all()):
        raise SettingsError(
            f"task {task.name} has no wrong answers: how much of the capability is left is a difference between right and wrong. "
            "Give the pairs wrong_answers."
        )
    return metric_named("logit_difference")
