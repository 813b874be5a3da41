"""The peak memory of a search, computed from shapes alone.

    model   the weights
    runs    tensors of the clean and the ablated run of every example in memory: writers × rows × d_model differences
            (with ``acdc`` their prefix sums as well), a stream for every unit, keys and values
    work    the largest other allocation: values of all writers when the runs start, gradients at the readers of a layer,
            inputs and outputs of a batch of trials, or the logits of a plain forward pass

Rows are (example, position) pairs from the first difference of an example to its last answer (``units/rows.py``). The memory
of the interpreter and its libraries, about 0.4 GB, is not included.
"""

from dataclasses import dataclass

import torch

from subcircuit.engine.ablation import Mean, MeanByPosition
from subcircuit.engine.memory import free_memory, size_in_words
from subcircuit.model.weights import named_tensors
from subcircuit.search.attribution import examples_at_once
from subcircuit.search.problem import Problem


@dataclass(frozen=True)
class Footprint:
    """The peak memory of a search, in bytes.

    Args:
        model, runs, work: see the module.
        float64: additional memory if a decision must be made in float64, on a copy of the model; 0 if that never happens.
        of_all: whether the runs of all examples are in memory, not only those of one batch.
    """

    model: int
    runs: int
    work: int
    float64: int = 0
    of_all: bool = False

    @property
    def total(self) -> int:
        """The total without the float64 copy."""
        return self.model + self.runs + self.work


def of_engines(problem: Problem, copies: int, together: int, trials: int, checked: bool = False) -> Footprint:
    """The peak memory of a search on the exact engine, which keeps the runs of every batch of examples.

    Args:
        copies: number of stored tensors over all rows, not counting the streams.
        together: number of examples whose runs start at once.
        trials: numbers in a batch of trials.
        checked: whether decisions may have to be made in float64.
    """
    model, graph, task = problem.model, problem.graph, problem.task
    config, size = model.config, model.dtype.itemsize
    rows, positions = changed_rows(problem)
    keys = 2 * config.n_layers * config.n_heads * config.d_head * len(task) * positions
    runs = (copies + 2 * len(graph.units)) * sum(rows) * config.d_model + keys
    # values of all writers exist twice while they are concatenated
    values = 2 * len(graph.writers) * min(together, len(task)) * task.clean.ids.shape[1] * config.d_model
    weights, numbers = _weights(problem)
    work = max(max(values, trials) * size, _prompts(problem))
    return Footprint(weights, runs * size, work, 8 * numbers if checked and model.dtype == torch.float32 else 0, of_all=True)


def of_gradients(problem: Problem, batch_size: int | None = None, steps: int = 1) -> Footprint:
    """The peak memory of a gradient method, which runs one batch of examples after the other.

    Args:
        batch_size: examples at once; None chooses by memory.
        steps: number of runs of a batch that are differentiated at once.
    """
    model, graph = problem.model, problem.graph
    width, wide = model.config.d_model, max(4, model.dtype.itemsize)
    together = examples_at_once(problem, batch_size)
    rows, positions = changed_rows(problem)
    differences = len(graph.writers) * sum(sorted(rows)[-together:]) * width * wide
    at_unit = together * positions * width
    streams = len(graph.units) * at_unit * model.dtype.itemsize * (1 if steps == 1 else 1 + steps)
    readers = max(len(readers) for readers in graph.without_positions.readers_in)
    # gradients at the norms' outputs and inputs, and intermediate tensors of the norms' backward pass
    work = max(differences, 4 * readers * at_unit * wide * steps, _prompts(problem))
    return Footprint(_weights(problem)[0], differences + streams, work)


def _weights(problem: Problem) -> tuple[int, int]:
    """Bytes and numbers of the model's weights."""
    tensors = {id(tensor): tensor for _, tensor in named_tensors(problem.model.weights)}.values()
    return sum(tensor.nbytes for tensor in tensors), sum(tensor.numel() for tensor in tensors)


def _prompts(problem: Problem) -> int:
    """Memory of all prompts at once: logits of a plain forward pass, or values that are averaged for mean ablations."""
    model, graph = problem.model, problem.graph
    prompts, size = problem.task.corrupted.ids.numel(), model.dtype.itemsize
    means = isinstance(problem.ablation, Mean | MeanByPosition)
    return prompts * max(model.config.vocab, 2 * len(graph.writers) * model.config.d_model if means else 0) * size


def changed_rows(problem: Problem) -> tuple[list[int], int]:
    """The number of rows of every example, and the number of positions that are computed."""
    model = problem.model
    answers, last = problem.task.answers, [0] * len(problem.task)
    earliest = [problem.task.clean.ids.shape[1]] * len(last)
    for example, pos in zip(answers.example.tolist(), answers.pos.tolist(), strict=True):
        last[example], earliest[example] = max(last[example], pos), min(earliest[example], pos)
    if not model.config.causal:
        return [problem.task.clean.ids.shape[1]] * len(last), problem.task.clean.ids.shape[1]
    first = [min(change, look) for change, look in zip(problem.first_changes(), earliest, strict=True)]
    return [end - begin + 1 for begin, end in zip(first, last, strict=True)], max(last) + 1


def shortage(problem: Problem, needs: Footprint) -> str | None:
    """A warning if a search needs more memory than is free after loading the model; None if memory suffices."""
    model, graph = problem.model, problem.graph
    free = free_memory(model.device)
    beside = needs.runs + needs.work
    if free is None or beside <= free:
        return None
    smaller = "fewer --examples" if needs.of_all else "a smaller --batch-size"
    return (
        f"besides the model ({size_in_words(needs.model)}) this search needs about {size_in_words(beside)}, {size_in_words(needs.runs)} of "
        f"it for stored runs, and only {size_in_words(free)} are free on {model.device}: use {smaller}, --dtype bfloat16, "
        f"or a coarser --scope than {graph.scope}"
    )
