"""How much memory a search takes at its peak, worked out from shapes alone.

    model   the weights
    runs    what is kept of the clean and the ablated run of every example at once: writers × rows × d_model differences
            (with ``acdc`` their prefix sums as well), a stream for every unit, keys and values
    work    the largest that is there besides: values of all writers as the runs begin, gradients at the readers of a layer,
            inputs and outputs of a batch of trials, or the logits of a plain forward pass

Rows are (example, position) pairs from the first difference of an example to its last answer (``units/rows.py``). What the
interpreter and its libraries take, some 0.4 GB, is not in it.
"""

from dataclasses import dataclass
from typing import Any

import torch

from subcircuit.engine.ablation import Mean, MeanByPosition
from subcircuit.engine.memory import free_memory, size_in_words
from subcircuit.model.weights import named_tensors
from subcircuit.search.acdc import Acdc
from subcircuit.search.attribution import examples_at_once
from subcircuit.search.eap_ig_inputs import STEPS_AT_ONCE, EapIgInputs
from subcircuit.search.exact import ROWS_AT_ONCE, Exact
from subcircuit.search.hybrid import Hybrid
from subcircuit.search.problem import Problem
from subcircuit.search.refine import Refine
from subcircuit.search.speculation import ROWS_AT_ONCE as ROWS_OF_TRIALS
from subcircuit.search.walk import PAIRS_AT_ONCE


@dataclass(frozen=True)
class Footprint:
    """Bytes at the peak of a search.

    Args:
        model, runs, work: as above.
        float64: more where a decision has to be made in float64, on a copy of the model; 0 if none ever is.
    """

    model: int
    runs: int
    work: int
    float64: int = 0

    @property
    def total(self) -> int:
        """All of it, without the copy."""
        return self.model + self.runs + self.work


def footprint(problem: Problem, settings: Any) -> Footprint:
    """The peak of a search with these settings."""
    model = problem.model
    tensors = {id(tensor): tensor for _, tensor in named_tensors(model.weights)}.values()
    weights, numbers = sum(tensor.nbytes for tensor in tensors), sum(tensor.numel() for tensor in tensors)
    if isinstance(settings, Refine):
        # what is kept of the runs as it refines is less than what the search for the seed keeps, whatever its threshold
        runs, work = _engines(problem, Acdc())
        work = max(work, sum(_gradients(problem, settings)))
    elif isinstance(settings, Acdc | Exact | Hybrid):
        runs, work = _engines(problem, settings)
    else:
        runs, work = _gradients(problem, settings)
    checked = isinstance(settings, Acdc | Refine) and model.dtype == torch.float32
    return Footprint(weights, runs, max(work, _prompts(problem)), 8 * numbers if checked else 0)


def _engines(problem: Problem, settings: Acdc | Exact | Hybrid) -> tuple[int, int]:
    """Of a search on the exact engine: every batch of examples keeps its runs."""
    model, graph = problem.model, problem.graph
    config, size, task = model.config, model.dtype.itemsize, problem.task
    rows, positions = _places(problem)
    at_rows = sum(rows) * config.d_model
    copies = 2 * len(graph.writers) + 1 if isinstance(settings, Acdc) else len(graph.writers)
    keys = 2 * config.n_layers * config.n_heads * config.d_head * len(task) * positions
    runs = (copies + 2 * len(graph.units)) * at_rows + keys
    if isinstance(settings, Acdc):
        together = settings.batch_size or PAIRS_AT_ONCE
        readers = max(len(readers) for readers in graph.unplaced.readers_in)
        # half of a layer's inputs change in a batch of trials, and what they make
        trials = (readers // 2 + 8) * max(ROWS_OF_TRIALS, 4 * max(rows) * min(together, len(task))) * config.d_model
    else:
        together = examples_at_once(problem, settings.batch_size)
        trials = 8 * ROWS_AT_ONCE * config.d_model
    # values of all writers are there twice as they are put together
    values = 2 * len(graph.writers) * min(together, len(task)) * task.clean.ids.shape[1] * config.d_model
    return runs * size, max(values, trials) * size


def _gradients(problem: Problem, settings: Any) -> tuple[int, int]:
    """Of a search that takes one batch of examples after the other."""
    model, graph = problem.model, problem.graph
    width, wide = model.config.d_model, max(4, model.dtype.itemsize)
    together = examples_at_once(problem, getattr(settings, "batch_size", None))
    rows, positions = _places(problem)
    steps = min(STEPS_AT_ONCE, settings.steps) if isinstance(settings, EapIgInputs) else 1
    differences = len(graph.writers) * sum(sorted(rows)[-together:]) * width * wide
    at_unit = together * positions * width
    streams = len(graph.units) * at_unit * model.dtype.itemsize * (1 if steps == 1 else 1 + steps)
    readers = max(len(readers) for readers in graph.unplaced.readers_in)
    # gradients at the norms' outputs and at their inputs, and what leads from the ones to the others
    return differences + streams, max(differences, 4 * readers * at_unit * wide * steps)


def _prompts(problem: Problem) -> int:
    """What all prompts take at once: logits of a plain forward pass, values that means are taken of."""
    model, graph = problem.model, problem.graph
    prompts, size = problem.task.corrupted.ids.numel(), model.dtype.itemsize
    means = isinstance(problem.ablation, Mean | MeanByPosition)
    return prompts * max(model.config.vocab, 2 * len(graph.writers) * model.config.d_model if means else 0) * size


def _places(problem: Problem) -> tuple[list[int], int]:
    """Rows of every example, and positions that are computed at all."""
    model = problem.model
    answers, last = problem.task.answers, [0] * len(problem.task)
    earliest = [problem.task.clean.ids.shape[1]] * len(last)
    for example, pos in zip(answers.example.tolist(), answers.pos.tolist(), strict=True):
        last[example], earliest[example] = max(last[example], pos), min(earliest[example], pos)
    if not model.config.causal:
        return [problem.task.clean.ids.shape[1]] * len(last), problem.task.clean.ids.shape[1]
    first = [min(change, look) for change, look in zip(problem.first_changes(), earliest, strict=True)]
    return [end - begin + 1 for begin, end in zip(first, last, strict=True)], max(last) + 1


def shortage(problem: Problem, settings: Any) -> str | None:
    """What to say where a search will need more memory than is free, the model being loaded; None where it will do."""
    model, graph = problem.model, problem.graph
    needs, free = footprint(problem, settings), free_memory(model.device)
    beside = needs.runs + needs.work
    if free is None or beside <= free:
        return None
    smaller = "fewer --examples" if isinstance(settings, Acdc | Exact | Hybrid | Refine) else "a smaller --batch-size"
    return (
        f"beside the model of {size_in_words(needs.model)} this search takes about {size_in_words(beside)}, {size_in_words(needs.runs)} of "
        f"it for what is kept of the runs, and {size_in_words(free)} are free on {model.device}: take {smaller}, --dtype bfloat16, "
        f"or a coarser --scope than {graph.scope}"
    )
