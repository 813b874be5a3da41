"""Warnings about a doubtful circuit, derived from its record, and the place where a model first computes NaN or infinity.

A search that finishes has a result, but the circuit may capture nothing. Each warning gives the observation and a remedy.
Warnings concern the search prompts; test prompts judge the circuit (``evaluate/evaluation.py``).

The place of NaN or infinity is searched for only after a search has met one.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.errors import NumericalError
from subcircuit.graph import Circuit, Record
from subcircuit.model.attention import attention
from subcircuit.model.components import embed
from subcircuit.model.tokens import Tokens
from subcircuit.model.transformer import Transformer, block
from subcircuit.tasks import Task

# loss of faithfulness in a zoom that causes a warning
_LOSS = 0.1
# relative distance below which the two ends of faithfulness count as equal
_SAME = 1e-6


def faithfulness_of(circuit: float, model: float, empty: float) -> float | None:
    """f = (L(C) − L(∅)) / (L(M) − L(∅)) of three values of a metric; None where model and empty circuit are the same.

    Examples:
        >>> faithfulness_of(3.0, 4.0, 2.0)
        0.5
    """
    gap = model - empty
    return None if abs(gap) <= _SAME * max(1.0, abs(model), abs(empty)) else (circuit - empty) / gap


def warnings_of(circuit: Circuit) -> tuple[str, ...]:
    """Reasons to doubt a circuit; empty if there are none.

    A circuit without a record, or of a search that is still running, has no warnings.
    """
    record = circuit.record
    if record is None or not record.results:
        return ()
    results, more = {**record.results, "metric": record.metric}, _way_out(record.method.parameters)
    found = (
        _empty(circuit, results, more),
        _alike(results),
        _collapsed(circuit, results, more),
        _zoomed(results),
        _missed(record),
        _one_of_several(results),
        _unjudged(record),
    )
    return tuple(warning for warning in found if warning)


def _missed(record: Record) -> str | None:
    """Warning for a refinement that stalled before its targets, or that cannot reach them at the requested size."""
    if record.method.name != "refine" or record.results.get("target_reached") != 0.0:
        return None
    names = ("faithfulness", "kl", "edges")
    asked = ", ".join(f"{name} {value:g}" for name in names if (value := record.method.parameters.get(name)) is not None)
    return (
        f"the targets were not reached ({asked}): this is the best circuit that was found. Use more prompts (--examples), an "
        "easier target (--target), or another seed (`subcircuit refine` of another circuit)."
    )


def _one_of_several(results: Mapping[str, Any]) -> str | None:
    """Warning for a refinement that dropped edges which could replace kept ones."""
    kept = results.get("one_of_several")
    return kept and (
        f"the circuit keeps one of several redundant sets of edges: {kept}. Each of the kept edges could be cut without loss while the "
        "dropped edges were in the circuit. Search in both directions (--method acdc --direction both) to keep redundant edges."
    )


def _unjudged(record: Record) -> str | None:
    """Warning for a search on all prompts, without held-out ones; records of earlier versions do not contain this."""
    if record.task.split is None or record.task.split.test is not None:
        return None
    return (
        "no prompts were held out, so the circuit cannot be evaluated on unseen prompts, and a circuit does better on the prompts that it was "
        "found on than on others. Hold out test prompts (--split 50/20/30)."
    )


def _way_out(parameters: Mapping[str, Any]) -> str:
    if "select" not in parameters:
        return "search with a lower threshold (--threshold)"
    greedy = "" if parameters["select"] == "greedy" else ", or grow the circuit from the logits, which connects them (--greedy)"
    return ("lower the threshold (--threshold)" if parameters["select"] == "threshold" else "take more edges (--edges)") + greedy


def _empty(circuit: Circuit, results: Mapping[str, Any], more: str) -> str | None:
    selected, kept = results.get("edges_selected"), circuit.n_edges
    pruned = (
        f"{selected - kept:,} of {selected:,} selected edges lie on no path from the embedding to the logits" if selected else ""
    )
    if not kept:
        return f"the circuit is empty{f': {pruned}' if pruned else ''}. Remedy: {more}."
    if selected and 2 * kept < selected:
        return (
            f"most of the circuit was disconnected: {pruned} and were dropped, {kept:,} {'is' if kept == 1 else 'are'} left. Remedy: "
            f"{more}."
        )
    return None


def _alike(results: Mapping[str, Any]) -> str | None:
    ends = _values(results)
    if ends is None or faithfulness_of(*ends) is not None:
        return None
    return (
        f"{results['metric']} is {ends[1]:.4g} for the model and {ends[2]:.4g} with every edge cut. The values are the same, so no "
        "circuit can be evaluated. Use another metric (--metric), or corrupted prompts that differ more."
    )


def _collapsed(circuit: Circuit, results: Mapping[str, Any], more: str) -> str | None:
    ends = _values(results)
    f = None if ends is None else faithfulness_of(*ends)
    if ends is None or f is None or f > _SAME or not circuit.n_edges:
        return None
    return (
        f"the circuit does no better than the model with every edge cut: {results['metric']} is {ends[0]:.4g} for the circuit, {ends[2]:.4g} "
        f"with every edge cut, {ends[1]:.4g} for the model (faithfulness {_shown(f)}). Remedy: {more}."
    )


def _zoomed(results: Mapping[str, Any]) -> str | None:
    ends, before = _values(results), results.get("metric_before")
    if ends is None or not isinstance(before, int | float) or not isfinite(before):
        return None
    had, has = faithfulness_of(float(before), *ends[1:]), faithfulness_of(*ends)
    if had is None or has is None or had - has <= _LOSS * max(1.0, abs(had)):
        return None
    return (
        f"the zoom lowered the faithfulness from {_shown(had)} to {_shown(has)}: {results['metric']} is {ends[0]:.4g}, and was {before:.4g} before. "
        "Zoom with a lower threshold (--threshold) to keep more of the parts."
    )


def _values(results: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """The metric of circuit, model and empty circuit."""
    values = [results.get(name) for name in ("metric_circuit", "metric_model", "metric_corrupted")]
    known = [float(value) for value in values if isinstance(value, int | float) and isfinite(value)]
    return (known[0], known[1], known[2]) if len(known) == 3 else None


def _shown(f: float) -> str:
    """Faithfulness as text, where a rounded zero has no sign."""
    return f"{round(f, 3) + 0.0:.3g}"


@contextmanager
def naming_the_place(model: Transformer, task: Task) -> Iterator[None]:
    """A block whose ``NumericalError`` names the layer and the pair, if the model itself fails on the prompts."""
    try:
        yield
    except NumericalError as error:
        place = first_unsound(model, task)
        if place is None:
            raise
        remedy = "bfloat16 or float32: float16 ends at 65,504" if model.dtype == torch.float16 else "another copy of its weights"
        dtype = str(model.dtype).removeprefix("torch.")
        raise NumericalError(f"{model.name} computes NaN or infinity in {place}, in {dtype}: try {remedy}. ({error})") from None


@torch.no_grad()
def first_unsound(model: Transformer, task: Task) -> str | None:
    """The first part of a model, and the first pair, for which a prompt produces NaN or infinity; None if there is none."""
    for which, tokens in (("clean", task.clean), ("corrupted", task.corrupted)):
        stream = embed(model.config, model.weights, tokens.ids)
        parts = [("the embedding", stream)]
        for layer in range(model.config.n_layers):
            if (example := _bad(stream, tokens)) is not None:
                break
            parts = [
                (f"the attention of layer {layer}", attention(model, layer, stream)),
                (f"the MLP of layer {layer}", stream := block(model, layer, stream)),
            ]
        else:
            example = _bad(stream, tokens)
        if example is not None:
            part = next(name for name, values in parts if _bad(values, tokens) is not None)
            return f"{part} on the {which} prompt of pair {example + 1}"
    return None


def _bad(values: Float[Tensor, "batch pos d_model"], tokens: Tokens) -> int | None:
    """The first prompt with a number that is not finite."""
    real: Bool[Tensor, "batch pos"] = torch.arange(values.shape[1], device=values.device) < tokens.lengths[:, None]
    bad = (real & ~values.isfinite().all(-1)).any(1).nonzero().flatten().tolist()
    return bad[0] if bad else None
