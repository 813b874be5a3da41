"""From a model, a task and a method to a circuit that knows where it came from."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from typing import Any

from subcircuit.graph import Graph, MethodRecord, ModelRecord, Record, Scope, TaskRecord
from subcircuit.model.transformer import Transformer
from subcircuit.run import Ablation, ablation_named, name_of
from subcircuit.search.acdc import Acdc, acdc
from subcircuit.search.behaviour import Behaviour
from subcircuit.search.result import AcdcResult, OnStep
from subcircuit.tasks import Task
from subcircuit.tasks import metric as metric_named


@dataclass(frozen=True)
class Method:
    """A search method.

    Args:
        name: to ask for it by.
        description: one line.
        settings: its config type.
        search: ``search(model, graph, behaviour, settings, on_step)``.
    """

    name: str
    description: str
    settings: type[Acdc]
    search: Callable[[Transformer, Graph, Behaviour, Acdc, OnStep | None], AcdcResult]


METHODS: dict[str, Method] = {
    method.name: method
    for method in (Method("acdc", "cut edges one by one, exactly; keep those that matter (Conmy et al. 2023)", Acdc, acdc),)
}


def discover(
    model: Transformer,
    task: Task,
    method: Acdc,
    *,
    metric: str | None = None,
    ablation: str | Ablation = "resample",
    scope: Scope | None = None,
    on_step: OnStep | None = None,
) -> AcdcResult:
    """Find the circuit of a behaviour.

    Args:
        model: from ``load_model``.
        task: from ``load_task``, made for this model.
        method: a method's settings, such as ``Acdc(threshold=0.02)``.
        metric: what to measure; None is the task's own metric.
        ablation: what cut edges carry, by name or as a value.
        scope: at which level the model is resolved; queries, keys and values of every head by default.
        on_step: called with a ``Step`` after every batch of trials.

    Raises:
        UnknownNameError: no such metric or ablation.
        SettingsError, GraphError: settings that do not go together with the model or task.
        NumericalError: a loss that is NaN or infinite.

    >>> result = discover(model, load_task("ioi", model, examples=32), Acdc(threshold=0.02))  # doctest: +SKIP
    >>> result.circuit.save("runs/ioi")  # doctest: +SKIP
    """
    chosen = next(m for m in METHODS.values() if isinstance(method, m.settings))
    ablation = ablation_named(ablation) if isinstance(ablation, str) else ablation
    behaviour = Behaviour(task.to(model.device), metric_named(metric or task.metric), ablation)
    result = chosen.search(model, Graph.of(model.config, scope), behaviour, method, on_step)
    record = _record(model, behaviour, chosen, method, result)
    return replace(result, circuit=replace(result.circuit, record=record))


def _record(model: Transformer, behaviour: Behaviour, method: Method, settings: Acdc, result: AcdcResult) -> Record:
    return Record(
        model=ModelRecord(
            name=model.name,
            revision=model.revision,
            config=model.config.digest,
            tokenizer=_tokenizer_digest(model),
            dtype=str(model.dtype).removeprefix("torch."),
        ),
        task=TaskRecord(name=behaviour.task.name, parameters=dict(behaviour.task.parameters), digest=behaviour.task.digest),
        method=MethodRecord(name=method.name, parameters=asdict(settings)),
        ablation=name_of(behaviour.ablation),
        metric=behaviour.metric.name,
        results=_results(result),
        versions={package: version(package) for package in ("subcircuit", "torch", "transformers")},
        seed=int(behaviour.task.parameters.get("seed", 0)),
    )


def _results(result: AcdcResult) -> dict[str, Any]:
    """The numbers of a result, as JSON values."""
    numbers = {key: value for key, value in vars(result).items() if key != "circuit"}
    return {**numbers, "edges_kept": result.circuit.n_edges, "edges_total": result.circuit.graph.n_edges}


def _tokenizer_digest(model: Transformer) -> str | None:
    if model.tokenizer is None:
        return None
    vocabulary = sorted(model.tokenizer.get_vocab().items())
    return sha256(repr(vocabulary).encode()).hexdigest()[:16]
