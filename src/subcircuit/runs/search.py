"""Searches that survive interruption: the work of ``subcircuit discover``, for Python and for the command line."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from subcircuit.runs.folder import fork, run_in
from subcircuit.runs.identity import identity
from subcircuit.runs.pool import Pool
from subcircuit.runs.progress import ProgressFile
from subcircuit.runs.spec import DiscoverSpec, Say, Spec

if TYPE_CHECKING:
    from subcircuit.graph import Circuit
    from subcircuit.runs.journal import SqliteJournal
    from subcircuit.search import Discovery, OnProgress, Progress
    from subcircuit.tasks import Split

__all__ = ["run"]

T = TypeVar("T")
Words = Callable[["Progress"], str]


def run(
    spec: DiscoverSpec,
    directory: Path | str,
    *,
    pool: Pool | None = None,
    source: Path | None = None,
    say: Say = lambda message: None,
    on_step: "OnProgress | None" = None,
    words: Words | None = None,
) -> "Circuit":
    """Search as a spec asks, in a run directory; a run that was interrupted there is resumed.

    The result is bit-identical to that of an uninterrupted search. The directory then holds the circuit, its pictures, the journal
    and the spec, as after ``subcircuit discover``.

    Args:
        directory: a new or empty directory, or that of a run with the same spec.
        pool: processes that share the work; None starts those that the spec asks for.
        source: directory of another run; a new run takes over the work that it can use of it.
        say: called with lines about what takes long, and with warnings.
        on_step: called with a ``Progress`` after every step.
        words: progress in words, for the page that shows running searches.

    Raises:
        SubcircuitError: as ``DiscoverSpec.load`` and ``discover``.
        RunError: the run in the directory is damaged, in use, or of another spec.
        Stopped: Ctrl-C; the message says how to resume.

    Examples:
        >>> spec = DiscoverSpec(model="smollm2-135m", task="ioi", threshold=0.1)
        >>> circuit = run(spec, "runs/ioi")  # doctest: +SKIP
    """
    from subcircuit.evaluate import discover_split
    from subcircuit.graph import Circuit
    from subcircuit.search.memory import shortage
    from subcircuit.tasks import competence, shortfall

    loaded = spec.load(say)
    problem, split = loaded.problem, loaded.split
    lacking = shortfall(problem.model, problem.task, competence(problem.model, problem.task))
    for warning in (lacking, shortage(problem, loaded.method.memory(problem))):
        if warning is not None:
            say(f"warning: {warning}")
    say(_held_out(split))
    say(f"searching for the circuit of {problem.task.name} on {len(problem.task.pairs)} pairs of prompts")
    how = {"selection": loaded.selection, "learning": loaded.learning}
    searching = partial(discover_split, problem, loaded.method, split, **how)
    processes = Pool(spec.workers, spec.ray) if pool is None else pool

    def work(journal: "SqliteJournal", show: "OnProgress") -> "Discovery":
        return processes.run(searching, journal, say=say, on_step=show)

    return run_circuit(
        spec,
        Path(directory),
        identity(problem.model, split),
        work,
        source=source,
        begin=Circuit.empty(problem.graph),
        say=say,
        on_step=on_step,
        words=words,
    )


def run_circuit(
    spec: Spec,
    directory: Path,
    digests: Mapping[str, Any],
    work: "Callable[[SqliteJournal, OnProgress], Discovery]",
    *,
    begin: "Circuit",
    source: Path | None,
    say: Say,
    on_step: "OnProgress | None",
    words: Words | None,
) -> "Circuit":
    """Find a circuit in a run, whose progress the viewer can show, and write it there.

    Args:
        digests: the identity of the run.
        work: searches with a journal and reports its progress.
        begin: the circuit to show before the first step.
        source, say, on_step, words: as in ``run``.

    Raises:
        RunError, Stopped: as ``run_in``.
    """

    def searched(journal: "SqliteJournal") -> "Circuit":
        shown = ProgressFile(directory, begin, words or _plain_words)

        def show(step: "Progress") -> None:
            if on_step is not None:
                on_step(step)
            shown.step(step)

        result = work(journal, show)
        _save(result, directory)
        shown.end()
        return result.circuit

    return run_from(spec, directory, digests, searched, source, say)


def run_from(
    spec: Spec,
    directory: Path,
    digests: Mapping[str, Any],
    work: "Callable[[SqliteJournal], T]",
    source: Path | None,
    say: Say,
) -> T:
    """The result of a run's work, which may take over work of another run.

    Raises:
        RunError, Stopped: as ``run_in``.
    """
    recorded = spec.recorded()
    if source is not None:
        say(f"{fork(source, directory, recorded, digests):,} units of work reused from {source}")
    return run_in(directory, recorded, digests, work)


def _save(result: "Discovery", directory: Path) -> None:
    """Write the result of a search: circuit, pictures, and the path of a refinement."""
    from subcircuit.report import save_picture, write_path

    result.circuit.save(directory)
    save_picture(result.circuit, directory)
    if result.path is not None:
        write_path(result.path, result.circuit, directory)


def _plain_words(step: "Progress") -> str:
    return step.phase if step.share is None else f"{step.phase} {step.share:.0%}"


def _held_out(split: "Split") -> str:
    """A line about the prompts that the search does not use."""
    parts = split.parts
    if "test" not in parts:
        return (
            "warning: the split has no test prompts, so the circuit cannot be evaluated on unseen prompts, and a circuit does better on its "
            "search prompts than on others"
        )
    chosen = f", {len(parts['validation'])} validation prompts" if "validation" in parts else ""
    return f"held out: {len(parts['test'])} test prompts{chosen}"
