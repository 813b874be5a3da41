"""What every search is given beside the model and its graph: prompts, a metric, and what cut edges carry."""

from dataclasses import dataclass, field

import torch

from subcircuit.run.ablation import Ablation, Resample
from subcircuit.tasks import Metric, Task


@dataclass(frozen=True, eq=False)
class Behaviour:
    """A behaviour and how it is probed.

    Args:
        task: clean and corrupted prompts with their answers.
        metric: what is measured.
        ablation: what cut edges carry.
        validation: other prompts of the same task, by which a search may choose what to keep; None where there are none.
    """

    task: Task
    metric: Metric
    ablation: Ablation = field(default_factory=Resample)
    validation: Task | None = None

    def first_changes(self) -> list[int]:
        """Per example, the first position at which clean and ablated values can differ."""
        if not isinstance(self.ablation, Resample):
            return [0] * len(self.task)
        return (self.task.clean.ids != self.task.corrupted.ids).to(torch.int8).argmax(1).tolist()
