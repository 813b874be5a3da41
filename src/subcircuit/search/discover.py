"""From a problem and a method to a circuit that knows where it came from."""

from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

from torch import Tensor

from subcircuit.engine import Optimal
from subcircuit.engine.exact import Engine
from subcircuit.entry import entry
from subcircuit.errors import SettingsError
from subcircuit.graph import Circuit, Graph, MethodRecord, ModelRecord, Record, SplitRecord, TaskRecord
from subcircuit.graph.selection import Selection, selection_of, selection_record
from subcircuit.search.acdc import Acdc
from subcircuit.search.attribution import examples_at_once
from subcircuit.search.batches import Batches, Stream, bind, losses_at
from subcircuit.search.journal import FORGETFUL, Journal
from subcircuit.search.method import Method, MethodClass
from subcircuit.search.methods import method_of
from subcircuit.search.optimal import LearnOptimal, learn_optimal
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, Progress, in_phase
from subcircuit.search.refine import Refine
from subcircuit.search.result import Discovery, Result
from subcircuit.search.warnings import naming_the_place
from subcircuit.search.zoom import zoom, zoomed
from subcircuit.tasks import Metric, Split, check_vocabulary, metric, split_record

_TIMINGS = ("seconds", "forward_seconds")
_STREAMS: dict[str, Stream] = {
    "model": lambda engine: engine.run.model_stream(),
    "circuit": Engine.circuit_stream,
    "corrupted": lambda engine: engine.run.ablated_stream(),
}


@entry
def find_circuit(
    problem: Problem,
    method: Method | MethodClass | str,
    *,
    selection: Selection | int | None = None,
    learning: LearnOptimal | None = None,
    split: Split | None = None,
    on_step: OnProgress | None = None,
    journal: Journal = FORGETFUL,
) -> Discovery:
    """Find the circuit of a problem, with its record.

    Args:
        method: settings, a class or a name: see ``method_of``.
        selection: which of the scored edges make the circuit; a number takes so many of largest magnitude, None 1 %. Edges on no path
            from an embedding to the logits are pruned. Methods that find a circuit themselves take none.
        learning: first learn constants for cut edges to carry, instead of the problem's ablation, and keep them with the circuit.
        split: that the problem's prompts are part of, for the record.
        on_step: called after every batch of trials or of examples.
        journal: stores units of work, so that an interrupted search can resume.

    Raises:
        UnknownNameError: no such method.
        NoGradientError: a metric that has no gradient where the method takes one.
        SettingsError, GraphError: settings that do not go together with the problem.
        PromptError: the split's prompts were made for a model with another tokenizer.
        NumericalError: a loss or score that is NaN or infinite.
    """
    method, parts = method_of(method), None
    if split is not None:
        check_vocabulary(problem.model, split.search)
        parts = split_record(split)
    problem.graph.check_size()
    taken = _selection(method, selection, problem.graph)
    parameters = asdict(method) | ({} if taken is None else selection_record(taken))
    if learning is not None:
        parameters |= {"optimal": asdict(learning)}
        problem = replace(problem, ablation=learn_optimal(problem, learning, in_phase(on_step, "constants"), journal))
    record = _record(problem, method, parameters, parts)
    with naming_the_place(problem.model, problem.task):
        result = _judged(method.search(problem, _with_record(on_step, record), journal), problem, taken)
    constants = problem.ablation.constants.float().cpu() if isinstance(problem.ablation, Optimal) else None
    return _recorded(result, record, constants)


@entry
def look_inside(
    problem: Problem,
    circuit: Circuit,
    component: str,
    into: str,
    config: Acdc,
    on_step: OnProgress | None = None,
    journal: Journal = FORGETFUL,
) -> Discovery:
    """``zoom`` of a circuit whose record is carried on: of the method, with what was zoomed into added to its settings.

    Raises:
        GraphError, NumericalError: as ``zoom``.
    """
    with naming_the_place(problem.model, problem.task):
        found = zoom(problem, circuit, component, into, config, on_step, journal)
        before = _mean(_engines_at(problem, circuit), problem.metric, Engine.circuit_stream)
        result = replace(_judged(found, replace(problem, graph=found.graph)), metric_before=before)
    now = {"threshold": config.threshold, "coarse_to_fine": config.coarse_to_fine}
    known = asdict(config) if circuit.record is None else {**circuit.record.method.parameters, **now}
    parts = _parts(circuit, problem)
    record = _record(problem, config, zoomed(known, component, into), parts)
    if circuit.record is not None:
        record = record.model_copy(update={"seed": circuit.record.seed})
    return _recorded(result, record, circuit.constants)


@entry
def refine_circuit(
    problem: Problem, circuit: Circuit, config: Refine, on_step: OnProgress | None = None, journal: Journal = FORGETFUL
) -> Discovery:
    """A refinement of a finished circuit, whose record becomes that of the refinement and names the method of the seed.

    Raises:
        GraphError, SettingsError, NumericalError: as ``Refine.search``.
    """
    model = problem.model
    parameters: dict[str, Any] = asdict(config)
    if circuit.record is not None:
        parameters["seed"] = f"{circuit.record.method.name}, {circuit.n_edges:,} edges"
    parts = _parts(circuit, problem)
    record = _record(problem, config, parameters, parts)
    with naming_the_place(model, problem.task):
        result = _judged(config.search(problem, _with_record(on_step, record), journal, circuit), problem)
    return _recorded(result, record, circuit.constants)


def _parts(circuit: Circuit, problem: Problem) -> SplitRecord | None:
    """The split that a circuit was found with, where it is searched further on the same prompts."""
    record = circuit.record
    return None if record is None or record.task.digest != problem.task.digest else record.task.split


def _selection(method: Method, asked: Selection | int | None, graph: Graph) -> Selection | None:
    """What makes a circuit of scores; None for a method that decides itself."""
    if method.ranks:
        return selection_of(asked, graph)
    if asked is not None:
        raise SettingsError(
            f"method {method.name} takes no selection, because its own threshold decides which edges to keep: set the threshold instead."
        )
    return None


def _judged(found: Result, problem: Problem, selection: Selection | None = None) -> Discovery:
    """What a search found, or what a selection takes of it, with what that does."""
    selected = found.circuit if selection is None else found.select(selection)
    circuit = selected if selection is None else selected.prune()
    return Discovery(
        **{**vars(found), "circuit": circuit},
        metric=problem.metric.name,
        edges_selected=None if selection is None else selected.n_edges,
        **_measurements(problem, circuit),
    )


def _engines_at(problem: Problem, circuit: Circuit) -> Batches:
    """The engines over a problem's prompts, with the circuit's edges kept and all others cut."""
    batches = Batches.start(problem, examples_at_once(problem, None))
    return batches.at(circuit.kept)


def _measurements(problem: Problem, circuit: Circuit) -> dict[str, Any]:
    """Means of a ``Discovery`` over a problem's prompts: of the circuit, the whole model and the circuit without edges."""
    batches = _engines_at(problem, circuit)
    contrasts = problem.task.answers.contrasts
    means: dict[str, Any] = {"kl_circuit": _mean(batches, metric("kl_divergence"), Engine.circuit_stream)}
    for name, stream in _STREAMS.items():
        means[f"metric_{name}"] = _mean(batches, problem.metric, stream)
        means[f"logit_difference_{name}"] = _mean(batches, metric("logit_difference"), stream) if contrasts else None
    return means


def _mean(batches: Batches, measured: Metric, stream: Stream) -> float:
    return measured.mean(losses_at(batches, bind(batches, measured), stream))


def _with_record(on_step: OnProgress | None, record: Record) -> OnProgress | None:
    """The callback, with a record in the circuits that it receives."""
    if on_step is None:
        return None

    def tell(step: Progress) -> None:
        so_far = step.circuit
        on_step(step if so_far is None else replace(step, circuit=lambda: replace(so_far(), record=record)))

    return tell


def _record(
    problem: Problem,
    method: Method,
    parameters: dict[str, Any],
    split: SplitRecord | None,
) -> Record:
    model = problem.model
    task = problem.task
    return Record(
        model=ModelRecord(
            name=model.name,
            revision=model.revision,
            config=model.config.digest,
            tokenizer=None if model.vocabulary.tokenizer is None else model.vocabulary.tokenizer[:16],
            dtype=str(model.dtype).removeprefix("torch."),
            d_model=model.config.d_model,
            origin=model.origin,
            weights=model.weights_digest,
        ),
        task=TaskRecord(name=task.name, parameters=dict(task.parameters), digest=task.digest, split=split),
        method=MethodRecord(name=method.name, parameters=parameters),
        ablation=problem.ablation.name,
        metric=problem.metric.name,
        results={},
        timings={},
        versions={package: version(package) for package in ("subcircuit", "torch", "transformers")},
        seed=split.settings.seed if split is not None and split.settings is not None else int(task.parameters.get("seed", 0)),
    )


def _recorded(result: Discovery, record: Record, constants: Tensor | None) -> Discovery:
    """The result, whose circuit has the record with the numbers of the result and the time it took."""
    numbers = {key: value for key, value in vars(result).items() if key not in ("circuit", "notes", "path", "ranked", *_TIMINGS)}
    notes = {name: value for name, value in result.notes.items() if not name.endswith("_seconds")}
    times = {name: float(value) for name, value in result.notes.items() if name not in notes}
    sizes = {"edges_kept": result.circuit.n_edges, "edges_total": result.circuit.graph.n_edges}
    timings = {name: getattr(result, name) for name in _TIMINGS} | times
    whole = record.model_copy(update={"results": {**numbers, **notes, **sizes}, "timings": timings})
    return replace(result, circuit=replace(result.circuit, record=whole, constants=constants))
