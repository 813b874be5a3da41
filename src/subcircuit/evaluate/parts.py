"""What a circuit does on the prompts of its search and on those of its split that nothing was chosen by.

The first number says how well the search fitted its prompts, the second what the circuit is worth: circuits found on few
prompts do better on these than on others. Cost: for each part a masked forward pass, about three plain ones, of the model,
of the circuit and of the circuit without edges.
"""

from dataclasses import replace
from math import isfinite
from typing import Any

from subcircuit.engine import OPTIMAL, Ablation
from subcircuit.entry import entry
from subcircuit.errors import GraphError, NumericalError, PromptMismatchError, SettingsError
from subcircuit.evaluate.faithfulness import Evaluation, evaluate_circuit
from subcircuit.evaluate.measure import runs_of
from subcircuit.graph import Circuit, Numbers, Scope
from subcircuit.graph.select import Selection
from subcircuit.model.transformer import Transformer
from subcircuit.search import Discovery, LearnOptimal, OnProgress, OnRound, Problem, Rounds
from subcircuit.search import discover as search
from subcircuit.search.journal import FORGETFUL, Journal, Under
from subcircuit.tasks import Metric, OwnMetric, Split, Task, check_vocabulary

# those that are reported; validation prompts have served to choose by
REPORTED = ("test", "search")


@entry
def discover(
    model: Transformer,
    task: Task | Split,
    method: Any,
    *,
    metric: str | Metric | OwnMetric | None = None,
    ablation: str | Ablation | LearnOptimal = "resample",
    scope: Scope | str | None = None,
    selection: Selection | int | None = None,
    on_step: OnProgress | None = None,
    journal: Journal = FORGETFUL,
) -> Discovery:
    """Find the circuit of a behaviour, and measure it on prompts that were not searched with.

    Args:
        model: from ``load_model``.
        task: from ``load_split``, made for this model: the circuit's record then says which prompts were used for what, and
            what the circuit does on test and search prompts, under ``results["test"]`` and ``results["search"]``. With a
            task from ``load_task`` all its prompts are searched with, and nothing more is measured.
        method, metric, ablation, scope, selection, on_step, journal: as in ``search.discover``.

    Raises:
        SubcircuitError: as in ``search.discover``.

    >>> found = discover(model, load_split("ioi", model, examples=32), Acdc(threshold=0.02))  # doctest: +SKIP
    >>> found.circuit.record.results["test"]["faithfulness"]  # doctest: +SKIP
    0.75
    """
    given = {"metric": metric, "ablation": ablation, "scope": scope, "selection": selection}
    found = search(model, task, method, **given, on_step=on_step, journal=journal)
    if not isinstance(task, Split):
        return found
    # constants that were learned in the search come with the circuit
    carried = OPTIMAL if isinstance(ablation, LearnOptimal) else ablation
    problem = Problem.of(model, task.search, metric, carried, circuit=found.circuit)
    return replace(found, circuit=with_numbers(problem, found.circuit, task, journal=journal, on_step=on_step))


@entry
def with_numbers(
    problem: Problem,
    circuit: Circuit,
    split: Split,
    batch_size: int = 16,
    journal: Journal = FORGETFUL,
    on_step: OnRound | None = None,
) -> Circuit:
    """The circuit, whose record says what it does on the split's test and search prompts; one without record stays as it is.

    Args:
        problem: its metric and ablation are used, and the split's prompts.
        batch_size: prompts that run together.
        journal: remembers the losses of every batch of prompts.
        on_step: called after every run of every batch of prompts.

    Raises:
        PromptError: the split's prompts were made for a model with another tokenizer.
        RunError, ShortOfMemoryError: the work cannot be done. Prompts on which the circuit cannot be measured are no error:
            the numbers are missing then and say why.
    """
    model = problem.model
    check_vocabulary(model, split.search)
    if circuit.record is None:
        return circuit
    there = {name: split.parts[name] for name in REPORTED if name in split.parts}
    rounds = Rounds(sum(runs_of(len(task), 1) for task in there.values()), on_step, "runs of test and search prompts")
    found: dict[str, Any] = dict.fromkeys(REPORTED)
    for name, task in there.items():
        on, part = replace(problem, task=task.to(model.device)), Under(journal, f"{name} prompts")
        found[name] = measured_on(on, circuit, batch_size, part, rounds).model_dump(mode="json")
    record = circuit.record.model_copy(update={"results": {**circuit.record.results, **found}})
    return replace(circuit, record=record)


def measured_on(
    problem: Problem, circuit: Circuit, batch_size: int = 16, journal: Journal = FORGETFUL, rounds: Rounds | None = None
) -> Numbers:
    """The numbers of a circuit on a behaviour's prompts; those that are undefined are None, with the reason."""
    try:
        return numbers_of(evaluate_circuit(problem, circuit, batch_size, journal, rounds))
    except (GraphError, PromptMismatchError, NumericalError) as error:
        # prompts that do not line up with the graph's positions, or logits that overflow in half precision
        return Numbers(examples=len(problem.task), why=str(error))


def numbers_of(evaluation: Evaluation) -> Numbers:
    """The numbers of an evaluation in short."""
    means = evaluation.means
    try:
        faithful, interval, why = evaluation.faithfulness, evaluation.faithfulness_interval(), None
    except SettingsError as error:
        faithful, interval, why = None, None, str(error)
    ends = None if interval is None or not (isfinite(interval.low) and isfinite(interval.high)) else (interval.low, interval.high)
    return Numbers(
        examples=len(evaluation.metric.model),
        faithfulness=faithful,
        interval=ends,
        kl=means["kl"],
        accuracy=means["accuracy"],
        top1=means["match"],
        why=why,
    )
