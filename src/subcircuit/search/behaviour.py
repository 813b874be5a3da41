"""What every search is given beside the model and its graph: prompts, a metric, and what cut edges carry."""

from dataclasses import dataclass, field

import torch

from subcircuit.errors import SettingsError
from subcircuit.graph import Circuit
from subcircuit.model.transformer import Transformer
from subcircuit.run.ablation import OPTIMAL, Ablation, Optimal, Resample, ablation_named, name_of
from subcircuit.tasks import Metric, OwnMetric, Task, check_vocabulary, metric_of


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

    def __repr__(self) -> str:
        return f"Behaviour({self.task}, {self.metric.name}, {name_of(self.ablation)} ablation)"

    def __post_init__(self) -> None:
        for name, kind in (("task", Task), ("metric", Metric), ("ablation", Ablation)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise SettingsError(
                    f"{name} of a behaviour is a {type(value).__name__}: Behaviour.of(task, metric, ablation) takes names too, "
                    "Behaviour(…) values alone."
                )

    @staticmethod
    def of(
        task: "Task | Behaviour",
        metric: str | Metric | OwnMetric | None = None,
        ablation: str | Ablation | None = None,
        circuit: Circuit | None = None,
    ) -> "Behaviour":
        """A behaviour from values or names.

        Args:
            task: a task; a behaviour is returned as it is.
            metric: a name, a metric, or a Python function (see ``own_metric``).
            ablation: a name or a value.
            circuit: its record says what is left open; without one, the task's own metric and resample ablation.

        Raises:
            UnknownNameError: there is no such metric or ablation.
            SettingsError: constants of an optimal ablation that the circuit does not bring.
        """
        if isinstance(task, Behaviour):
            return task
        if not isinstance(task, Task):
            raise SettingsError(f"task is a {type(task).__name__}: load_task(…) and build_task(…) return one.")
        record = None if circuit is None else circuit.record
        measured = metric_of(metric or (task.metric if record is None else record.metric))
        return Behaviour(task, measured, carried(ablation or ("resample" if record is None else record.ablation), circuit))

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


def carried(ablation: str | Ablation, circuit: Circuit | None = None) -> Ablation:
    """What cut edges carry, by name or as a value; optimal constants are those that the circuit brings.

    Raises:
        UnknownNameError: there is no such ablation.
        SettingsError: the circuit brings no constants, or what is given is no ablation.
    """
    if isinstance(ablation, str):
        if ablation != OPTIMAL or circuit is None:
            return ablation_named(ablation)
        if circuit.constants is None:
            raise SettingsError("this circuit brings no constants for an optimal ablation: search with --ablation optimal.")
        return Optimal(circuit.constants)
    if not isinstance(ablation, Ablation):
        raise SettingsError(
            f"ablation is a {type(ablation).__name__}: give a name, such as 'resample', or a value, such as Zero()."
        )
    return ablation
