"""The input of every search and every evaluation: a model, its graph, prompts, a metric and an ablation."""

from dataclasses import dataclass, field

import torch

from subcircuit.engine.ablation import OPTIMAL, Ablation, Optimal, Resample, ablation_named
from subcircuit.errors import GraphError, SettingsError
from subcircuit.graph import Circuit, Graph, Scope
from subcircuit.model.transformer import Transformer
from subcircuit.tasks import Metric, OwnMetric, Split, Task, check_vocabulary, graph_of, metric_of

_KINDS = {"model": Transformer, "graph": Graph, "task": Task, "metric": Metric, "ablation": Ablation}


@dataclass(frozen=True, eq=False)
class Problem:
    """A behaviour of a model, with the metric and the ablation to study it.

    Args:
        model: any supported transformer, on any device.
        graph: the model's graph at the scope of the search, or of the circuits that are evaluated.
        task: clean and corrupted prompts with their answers, made for this model.
        metric: the metric that the circuit must preserve.
        ablation: the values that cut edges carry.
        validation: other prompts of the same task, on which a search may choose edges; None if there are none.

    Raises:
        SettingsError: an argument has the wrong type.
        GraphError: the graph belongs to another model.
        PromptError: the prompts were made for a model with another tokenizer.
    """

    model: Transformer
    graph: Graph
    task: Task
    metric: Metric
    ablation: Ablation = field(default_factory=Resample)
    validation: Task | None = None

    def __repr__(self) -> str:
        return f"Problem({self.model.name}, {self.graph}, {self.task}, {self.metric.name}, {self.ablation.name} ablation)"

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise SettingsError(
                    f"{name} of a problem is a {type(value).__name__}: Problem(…) takes values only. Use "
                    "Problem.of(model, task, metric, ablation) to give names."
                )
        if unlike := self.graph.unlike_model(self.model.config):
            raise GraphError(f"the graph is of another model than {self.model.name}; their graphs differ in {unlike}")
        for task in (self.task, self.validation):
            if task is not None:
                check_vocabulary(self.model, task)

    @staticmethod
    def of(
        model: Transformer,
        task: Task | Split,
        metric: str | Metric | OwnMetric | None = None,
        ablation: str | Ablation | None = None,
        scope: Scope | str | None = None,
        circuit: Circuit | None = None,
    ) -> "Problem":
        """A problem from values or names, on the model's device.

        Args:
            task: the prompts; of a split, the search prompts and the validation prompts are used.
            metric: a name, a metric, or a Python function (see ``own_metric``).
            ablation: a name or a value.
            scope: level of the model's parts, as a value or as text; by default queries, keys and values of every head.
            circuit: a circuit to evaluate or to continue from. Its graph is used, and its record gives the arguments that are
                None. Without a circuit, the defaults are the task's own metric and resample ablation.

        Raises:
            UnknownNameError: no metric, ablation or scope has this name.
            SettingsError: optimal ablation without constants in the circuit, or an argument of the wrong type.
            GraphError, PromptError: as for the class.
        """
        validation = None
        if isinstance(task, Split):
            task, validation = task.search, task.validation
        for value, kind, way in ((model, Transformer, "load_model(…) returns one"), (task, Task, _TASKS)):
            if not isinstance(value, kind):
                raise SettingsError(f"expected a {kind.__name__}, not a {type(value).__name__}: {way}.")
        record = None if circuit is None else circuit.record
        measured = metric_of(metric or (task.metric if record is None else record.metric))
        carries = carried(ablation or ("resample" if record is None else record.ablation), circuit)
        graph = graph_of(model, scope, task) if circuit is None else circuit.graph
        validation = None if validation is None else validation.to(model.device)
        return Problem(model, graph, task.to(model.device), measured, carries, validation)

    def first_changes(self) -> list[int]:
        """Per example, the first position at which clean and ablated values can differ."""
        if not isinstance(self.ablation, Resample):
            return [0] * len(self.task)
        return (self.task.clean.ids != self.task.corrupted.ids).to(torch.int8).argmax(1).tolist()


_TASKS = "load_task(…) and build_task(…) return one"


def carried(ablation: str | Ablation, circuit: Circuit | None = None) -> Ablation:
    """The ablation, by name or as a value; optimal constants come from the circuit.

    Raises:
        UnknownNameError: no ablation has this name.
        SettingsError: the circuit has no constants, or the argument is no ablation.
    """
    if isinstance(ablation, str):
        if ablation != OPTIMAL or circuit is None:
            return ablation_named(ablation)
        if circuit.constants is None:
            raise SettingsError("this circuit has no constants for optimal ablation: search with --ablation optimal.")
        return Optimal(circuit.constants)
    if not isinstance(ablation, Ablation):
        raise SettingsError(
            f"ablation is a {type(ablation).__name__}: give a name, such as 'resample', or a value, such as Zero()."
        )
    return ablation
