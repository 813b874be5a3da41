"""``subcircuit estimate``: the expected cost of a search."""

from typing import TYPE_CHECKING, Any

from subcircuit.cli.output import Output
from subcircuit.runs.spec import DiscoverSpec

if TYPE_CHECKING:
    from subcircuit.search.estimate import Estimate


def estimate(spec: DiscoverSpec, output: Output) -> None:
    """Estimate the trials, time and memory of `subcircuit discover` with the same options.

    Runs and measures small parts of the search; for acdc, a simplified search on up to 8 pairs of prompts. Writes nothing.
    """
    from subcircuit.cli.console import messages, print_json, print_rows, results
    from subcircuit.cli.progress import watch
    from subcircuit.errors import SettingsError
    from subcircuit.search.estimate import estimate as predict
    from subcircuit.search.memory import shortage

    if spec.settings.get("coarse_to_fine"):
        raise SettingsError(
            "estimate does not support --coarse-to-fine: leave it out; the search from coarse to fine should take less"
        )
    with watch(messages()) as watcher:
        loaded = spec.load(watcher.say)
        short = shortage(loaded.problem, loaded.method.memory(loaded.problem))
        if short is not None:
            watcher.say(f"warning: {short}")
        watcher.say("running small parts of the search")
        found = predict(loaded.problem, loaded.method, loaded.learning, on_step=watcher.step)
    if output.json:
        print_json(_as_json(found))
    else:
        print_rows(_rows(found), results())


def _rows(found: "Estimate") -> list[tuple[str, ...]]:
    from subcircuit.cli.progress import clock
    from subcircuit.engine.memory import size_in_words

    rows: list[tuple[str, ...]] = [("edges", f"{found.edges:,}")]
    if found.trials is not None:
        rows.append(("trials", f"about {_round(found.trials):,}"))
    if found.kept is not None and found.seen == 1:
        rows.append(("edges kept", f"about {_round(found.kept):,}"))
    if found.seen < 1:
        rows.append(("covers", f"{found.seen:.0%} of the edges, nearest to the logits first"))
    duration = clock(found.seconds) if found.seconds >= 60 else f"{found.seconds:.2g} s"
    rows.append(("time", f"about {duration} ({found.forward_equivalents:,.0f} forward passes), in one process"))
    parts = {"model": found.memory.model, "stored runs": found.memory.runs, "temporary": found.memory.work}
    rows.append(("memory", f"about {size_in_words(found.peak)} at the peak, libraries included"))
    rows.append(("", ", ".join(f"{name} {size_in_words(size)}" for name, size in parts.items())))
    if found.memory.float64:
        rows.append(("", f"{size_in_words(found.memory.float64)} more if a decision needs float64"))
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
