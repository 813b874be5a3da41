"""``subcircuit estimate``: what a search would cost."""

import inspect
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from subcircuit.cli.discover import discover

if TYPE_CHECKING:
    from subcircuit.search.estimate import Estimate


def estimate(**asked: Any) -> None:
    """Predict what `subcircuit discover` with the same options would take: trials, time and memory.

    Runs small parts of the search and measures them, for acdc an outline of it on up to 8 pairs of prompts. Writes nothing.
    """
    from subcircuit.cli.console import messages, print_json, print_rows, results
    from subcircuit.cli.progress import watch
    from subcircuit.cli.request import understood, with_method
    from subcircuit.errors import SettingsError
    from subcircuit.search.estimate import estimate as predict
    from subcircuit.search.memory import shortage

    o = SimpleNamespace(**with_method(asked))
    options = understood(o)
    if o.coarse_to_fine:
        raise SettingsError("estimate knows searches at one level: leave out --coarse-to-fine, with which it should take less")
    with watch(messages()) as watcher:
        at = options.load(watcher.say)
        short = shortage(at.problem, options.config.memory(at.problem))
        if short is not None:
            watcher.say(f"warning: {short}")
        watcher.say("running small parts of the search")
        learning = None if isinstance(options.ablation, str) else options.ablation
        found = predict(at.problem, options.config, learning)
    if o.json:
        print_json(_as_json(found))
    else:
        print_rows(_rows(found), results())


def _take_options() -> None:
    """The options of ``discover``, which writes what it finds, where this does not."""
    signature = inspect.signature(discover)
    parameters = [parameter for name, parameter in signature.parameters.items() if name != "out"]
    setattr(estimate, "__signature__", signature.replace(parameters=parameters))  # noqa: B010 - a function has no such field
    estimate.__annotations__ = {p.name: p.annotation for p in parameters}


_take_options()


def _rows(found: "Estimate") -> list[tuple[str, ...]]:
    from subcircuit.cli.progress import clock
    from subcircuit.engine.memory import size_in_words

    rows: list[tuple[str, ...]] = [("edges", f"{found.edges:,}")]
    if found.trials is not None:
        rows.append(("trials", f"about {_round(found.trials):,}"))
    if found.kept is not None and found.seen == 1:
        rows.append(("edges kept", f"about {_round(found.kept):,}"))
    if found.seen < 1:
        rows.append(("judged by", f"{found.seen:.0%} of the edges, those nearest to the logits"))
    duration = clock(found.seconds) if found.seconds >= 60 else f"{found.seconds:.2g} s"
    rows.append(("time", f"about {duration} ({found.forward_equivalents:,.0f} forward passes), in one process"))
    parts = {"model": found.memory.model, "kept of the runs": found.memory.runs, "at work": found.memory.work}
    rows.append(("memory", f"about {size_in_words(found.peak)} at the peak, libraries included"))
    rows.append(("", ", ".join(f"{name} {size_in_words(size)}" for name, size in parts.items())))
    if found.memory.float64:
        rows.append(("", f"{size_in_words(found.memory.float64)} more if a decision has to be made in float64"))
    return rows


def _round(count: int) -> int:
    """To two digits: no more is known."""
    return int(float(f"{count:.2g}"))


def _as_json(found: "Estimate") -> dict[str, Any]:
    return {
        "method": found.method,
        "edges": found.edges,
        "edges_kept": found.kept,
        "trials": found.trials,
        "seen": found.seen,
        "seconds": found.seconds,
        "forward_seconds": found.forward_seconds,
        "forward_equivalents": found.forward_equivalents,
        "peak_bytes": found.peak,
        "bytes": {name: size for name, size in vars(found.memory).items() if name != "of_all"},
        "estimate_seconds": found.cost,
    }
