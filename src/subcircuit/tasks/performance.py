"""The model's own performance on a task. A circuit for a behaviour that the model lacks explains nothing.

A task's answers are measured after the clean prompts and after the corrupted prompts. Both measurements use the right and wrong
answers of the clean prompts. A model that does the task prefers the right answers after clean prompts, and is indifferent or
prefers the wrong ones after corrupted prompts. Cost: two plain forward passes over the prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.entry import entry
from subcircuit.errors import SettingsError
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer
from subcircuit.tasks.metrics import METRICS, Metric, example_losses
from subcircuit.tasks.metrics import metric as metric_named
from subcircuit.tasks.task import Task, check_vocabulary


@dataclass(frozen=True, eq=False)
class Competence:
    """One metric of the whole model, in its own sign and units.

    Args:
        metric: what was measured.
        clean: per example, after the clean prompt; float64.
        corrupted: per example, after the corrupted prompt; float64.
    """

    metric: Metric
    clean: Float[Tensor, " batch"]
    corrupted: Float[Tensor, " batch"]

    @property
    def means(self) -> tuple[float, float]:
        """Means over examples: clean, corrupted."""
        return float(self.clean.mean()), float(self.corrupted.mean())


@entry
@torch.no_grad()
def competence(model: Transformer, task: Task, batch_size: int = 8) -> tuple[Competence, ...]:
    """Metrics of the whole model on a task, after clean and after corrupted prompts.

    Args:
        model: the whole model runs.
        task: any number of prompts.
        batch_size: prompts that run together; the result does not depend on it.

    Returns:
        The task's own metric first, unless it compares with the model itself and is therefore a constant. Then logit
        difference, probability difference and accuracy; if the task has no wrong answers, the negative log likelihood.

    Raises:
        SettingsError: the batch size is not positive, or the task's metric needs wrong answers and there are none.
        PromptError: the task was made for a model with another tokenizer.
    """
    if batch_size < 1:
        raise SettingsError(f"batch_size is {batch_size}: it must be at least 1")
    check_vocabulary(model, task)
    task, metrics = task.to(model.device), _telling(task)
    parts = [task[start : start + batch_size] for start in range(0, len(task), batch_size)]
    clean, corrupted = (
        [torch.cat(values) for values in zip(*sides, strict=True)]
        for sides in (
            [_values(model, part, part.clean, metrics) for part in parts],
            [_values(model, part, part.corrupted, metrics) for part in parts],
        )
    )
    return tuple(Competence(*measured) for measured in zip(metrics, clean, corrupted, strict=True))


@entry
def shortfall(model: Transformer, task: Task, measured: Sequence[Competence]) -> str | None:
    """A sentence that says that the model does not do a task, by the first metric of ``competence``; None if it does.

    The model does not do the task if the metric is no better after clean prompts than after corrupted ones, because then
    there is no difference for a circuit to carry.
    """
    one = measured[0]
    clean, corrupted = one.means
    if (clean - corrupted) * one.metric.sign < 0:
        return None
    return (
        f"{model.name} does not do {task.name}: its {one.metric.name.replace('_', ' ')} is {clean:.3g} after clean prompts and "
        f"{corrupted:.3g} after corrupted ones, where right and wrong are those of the clean ones: no better. "
        "A circuit found for it would explain nothing."
    )


def _telling(task: Task) -> tuple[Metric, ...]:
    """The metrics of a model's performance on the task."""
    contrasts = task.answers.contrasts
    names = ("logit_difference", "probability_difference", "accuracy") if contrasts else ("negative_log_likelihood",)
    own = metric_named(task.metric)
    return tuple(dict.fromkeys([*([] if own.compares else [own]), *(METRICS[name] for name in names)]))


def _values(model: Transformer, part: Task, prompts: Tokens, metrics: tuple[Metric, ...]) -> list[Float[Tensor, " batch"]]:
    rows = part.answers.rows(model.stream(prompts))
    return [metric.value(example_losses(model, part.answers, metric.bind(part.answers), rows)) for metric in metrics]
