"""A circuit as one self-contained file: it works from disk and offline, and sends no data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from subcircuit.evaluate.measure import runs_of
from subcircuit.report.folder import write_file
from subcircuit.report.page.arrays import Json
from subcircuit.report.page.document import FORMAT, Shown, check_one_graph, circuit_document, graph_document
from subcircuit.report.page.html import report_html
from subcircuit.report.page.prompts import STEPS_PER_PROMPT, prompts_document
from subcircuit.report.page.slider import POINTS, Ranking, ladder, measured_document
from subcircuit.search import OnProgress, Problem
from subcircuit.search.progress import ProgressCounter
from subcircuit.text import inert

# beside the circuit's own, the strongest of its other edges: a report stays small enough to be sent
MOST_EDGES = 10_000
# so many masked runs of a prompt are about as much work as a step of `prompts_document`
_RUNS_PER_STEP = 5


def page_document(circuits: Sequence[Shown], rankings: Sequence[Ranking]) -> Json:
    """The page's document for circuits of one graph, without results that need their model.

    Raises:
        GraphError: they are of different graphs.
    """
    graph = check_one_graph(circuits)
    parts = [circuit_document(shown, ranking) for shown, ranking in zip(circuits, rankings, strict=True)]
    title = parts[0]["title"] if len(parts) == 1 else " and ".join(part["name"] for part in parts)
    return {"format": FORMAT, "title": title, "graph": graph_document(graph), "circuits": parts}


def report_document(
    circuits: Sequence[Shown],
    problems: Sequence[Problem | None],
    *,
    most_edges: int = MOST_EDGES,
    points: int = POINTS,
    say: Callable[[str], None] = lambda message: None,
    on_step: OnProgress | None = None,
) -> Json:
    """The data of a report.

    Args:
        problems: the problem on which each circuit is measured; None leaves out results that need its model.
        most_edges: maximum number of edges, unless a circuit has more.
        points: count of sizes at which each circuit is measured.
        say: called with a message before slow work.
        on_step: called after every run of every prompt.

    Raises:
        GraphError: circuits of different graphs, or of another model than theirs.
        SettingsError, NumericalError: as `prompts_document`.
    """
    rankings = [shown.ranking(most_edges) for shown in circuits]
    content = page_document(circuits, rankings)
    works = [
        None if problem is None else _Work(content, shown, ranking, problem, _ladders(shown, ranking, points))
        for content, shown, ranking, problem in zip(content["circuits"], circuits, rankings, problems, strict=True)
    ]
    rounds = ProgressCounter(sum(work.runs for work in works if work is not None), on_step, phase="measure")
    for work in works:
        if work is not None:
            _fill(work, rounds, say)
    return content


@dataclass(frozen=True, eq=False)
class _Work:
    """The results that need a circuit's model.

    Args:
        part: of the page, where the results go.
        ladders: sizes at which the circuit is measured, by name; none along a refinement's path, which has its numbers.
    """

    part: Json
    shown: Shown
    ranking: Ranking
    problem: Problem
    ladders: dict[str, list[int]]

    @property
    def runs(self) -> int:
        """How many runs of a prompt it takes, or what is as much work."""
        examples = len(self.problem.task)
        return (
            sum(runs_of(examples, len(counts)) for counts in self.ladders.values()) + STEPS_PER_PROMPT * _RUNS_PER_STEP * examples
        )


def _ladders(shown: Shown, ranking: Ranking, points: int) -> dict[str, list[int]]:
    if shown.path is not None:
        return {}
    ways = {"kept": True, "all": False}
    if ranking.count(False) <= ranking.count(True):
        del ways["all"]
    return {name: ladder(ranking, kept, points) for name, kept in ways.items()}


def _fill(work: _Work, rounds: ProgressCounter, say: Callable[[str], None]) -> None:
    problem, shown = work.problem, work.shown
    if not work.ladders:
        say(f"the curve of {shown.name} over sizes is from its refinement, which measured it")
    else:
        say(f"measuring {shown.name} at {len(work.ladders['kept'])} sizes on {len(problem.task)} pairs of prompts")
    work.part["measured"] = {
        name: measured_document(problem, work.ranking, counts, name == "kept", rounds=rounds)
        for name, counts in work.ladders.items()
    }
    say(f"computing attention patterns and effects of {shown.name} for each prompt")
    done = partial(rounds.done, _RUNS_PER_STEP)
    work.part["prompts"] = prompts_document(problem, work.ranking, on_step=done)


def write_report(content: Json, path: Path) -> Path:
    """Write the page, whole or not at all.

    Raises:
        OutputError: the file exists, or cannot be written.
    """
    text = report_html(f"{inert(content['title'])} · subcircuit", content)
    return write_file(path, lambda file: file.write_bytes(text.encode()))
