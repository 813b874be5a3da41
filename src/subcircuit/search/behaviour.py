"""What every search is given beside the model and its graph: prompts, a metric, and what cut edges carry."""

from dataclasses import dataclass, field

import torch

from subcircuit.model.transformer import Transformer
from subcircuit.run.ablation import Ablation, Resample
from subcircuit.tasks import Metric, Task, check_vocabulary


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

    def check(self, model: Transformer) -> None:
        """Refuse prompts whose token ids mean something else to a model.

        Raises:
            PromptError: they were made for a model with another tokenizer.
        """
        for task in (self.task, self.validation):
            if task is not None:
                check_vocabulary(model, task)

    def first_changes(self) -> list[int]:
        """Per example, the first position at which clean and ablated values can differ."""
        if not isinstance(self.ablation, Resample):
            return [0] * len(self.task)
        return (self.task.clean.ids != self.task.corrupted.ids).to(torch.int8).argmax(1).tolist()
