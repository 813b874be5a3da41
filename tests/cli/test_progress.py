"""What commands say while they run: how far they are and how long the rest takes, all in the same way."""

import io
import operator
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from rich.console import Console

from subcircuit.cli.progress import Lines, Pace, clock, quiet_at_first, watch
from subcircuit.engine.memory import in_parts
from subcircuit.graph import Circuit, Graph, GraphShape, Scope
from subcircuit.search import Step
from tests.cli.conftest import Output


def at(seconds: float, decided: int, edges: int = 1000) -> Step:
    so_far = Circuit.empty(Graph(GraphShape(1, 1, 1), Scope()))
    known = {"trials": decided // 2, "value": 0.1, "seconds": float(seconds), "share": decided / edges, "work": float(decided)}
    return Step("a1.h0<q>", decided, 7, edges, circuit=lambda: so_far, **known)


def test_time_left_is_exact_at_a_steady_pace() -> None:
    pace = Pace()
    assert pace.left() is None
    for second in range(1, 51):
        pace.note(at(second, 10 * second))
    assert pace.left() == pytest.approx(50.0)
    pace.note(at(100, 1000))
    assert pace.left() == 0.0


def test_time_left_follows_a_change_of_pace() -> None:
    pace = Pace()
    for second in range(1, 31):
        pace.note(at(second, second))
    for second in range(31, 101):
        pace.note(at(second, 30 + 10 * (second - 30)))
    # 270 edges are left at the latest pace of 10 a second; the average since the start would say 37 s
    assert pace.left() == pytest.approx(27.0, rel=0.05)


def test_nothing_is_foretold_from_a_standstill() -> None:
    pace = Pace()
    for second in range(1, 40):
        pace.note(at(second, 5))
    assert pace.left() is None


def worked(seconds: float, share: float, work: float) -> Step:
    return replace(at(seconds, 1), share=share, work=work)


@pytest.mark.slow
def test_nothing_is_foretold_before_foretellings_agree() -> None:
    """A search that is much quicker at first than later, as the share can only guess."""
    pace, shown = Pace(), {}
    for tenth in range(1, 1001):
        second = tenth / 10
        # a third of the presumed work is nothing: it passes within a second
        share = second / 3 if second < 1 else 1 / 3 + (second - 1) / 99 * 2 / 3
        pace.note(worked(second, share, share))
        shown[second] = pace.left()
    told = {second: left for second, left in shown.items() if left is not None}
    assert min(told) >= 10
    assert all(0.5 <= left / (100 - second) <= 2 for second, left in told.items() if 10 < second < 99)
    assert told[100.0] == 0.0


def test_a_machine_that_slows_down_is_followed() -> None:
    pace = Pace()
    for second in range(1, 101):
        work = float(second) if second <= 40 else 40 + (second - 40) / 4
        pace.note(worked(second, work / 100, work))
    # 45 units are left at a quarter of a unit a second
    assert pace.left() == pytest.approx(180, rel=0.1)


def test_time_left_weighs_what_is_to_come_by_its_share_of_the_work() -> None:
    """Edges that are decided early cost nothing: the share says so, and their number does not matter."""
    pace = Pace()
    for second in range(1, 51):
        pace.note(replace(at(second, 900 + second), share=second / 100, work=float(second)))
    assert pace.left() == pytest.approx(50)


def test_clock() -> None:
    assert [clock(s) for s in (0.0, 42.4, 725.0, 10930.0)] == ["0:00", "0:42", "12:05", "3:02:10"]


def test_lines_come_every_few_seconds_and_at_the_end() -> None:
    console = Console(file=io.StringIO(), width=200)
    lines = Lines(console, every=5.0)
    for tenth in range(1, 121):
        lines.step(at(tenth / 10, 8 * tenth, edges=960))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue().splitlines()
    assert len(printed) == 3
    assert printed[-1].startswith("a1.h0<q>: 960/960 edges · 7 kept · 40 trials/s")


def test_a_second_search_starts_from_nothing() -> None:
    console = Console(file=io.StringIO(), width=200)
    lines = Lines(console, every=5.0)
    for _ in range(2):
        for second in range(1, 23):
            lines.step(at(second, 10 * second))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue().splitlines()
    assert printed[:4] == printed[4:]
    assert not any(line.endswith("left") for line in printed[:2])
    assert printed[2].endswith("1:25 left")


def test_short_searches_are_not_told_of() -> None:
    told = []
    step = quiet_at_first(told.append)
    for search in ((0.1, 0.4), (1.0, 4.0, 6.0, 9.0)):
        for seconds in search:
            step(at(seconds, 10))
    assert [one.seconds for one in told] == [6.0, 9.0]


def test_a_terminal_gets_a_bar() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with watch(console) as bar:
        bar.say("loading [red]tiny[/red]")
        for second in range(1, 19):
            bar.step(at(second, 50 * second))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    for words in ("[red]tiny[/red]", "a1.h0<q>", "900/1,000 edges", "7 kept", "left"):
        assert words in printed


@pytest.mark.filterwarnings("always::subcircuit.engine.memory.ShortOfMemory")
@pytest.mark.parametrize("terminal", [False, True])
def test_short_memory_is_told_in_a_line(terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=terminal)
    with watch(console):
        assert in_parts(lambda some: _at_most_two(list(some)), range(5), operator.add) == [0, 1, 2, 3, 4]
    assert isinstance(console.file, io.StringIO)
    assert "warning: out of memory: going on in smaller parts" in console.file.getvalue()


def _at_most_two(items: list[int]) -> list[int]:
    if len(items) > 2:
        raise MemoryError
    return items


Run = Callable[..., Output]
SEARCH = ("--model", "tiny-induction-ioi", "--task", "induction", "--metric", "logit_difference")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines come at every step, and times as soon as there are two that agree."""
    from subcircuit.cli import progress

    monkeypatch.setattr(progress, "Lines", partial(progress.Lines, every=0.0))
    monkeypatch.setattr(progress, "_SHORTEST_TIME", 0.0)
    monkeypatch.setattr(progress, "_AGREE", 1e9)
    monkeypatch.setattr(progress, "_LEAST_SHARE", 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("words", "counted"),
    [
        (("evaluate", "found"), "1,792 runs"),
        (("explain", "found"), "parts"),
        (("report", "found", "--out", "page.html"), "runs"),
        (("remove", "found", "--out", "edited", "--target", 0.5, "--eval-examples", 4, "--relearn", 4), "4 steps"),
        (("keep", "found", "--out", "edited", "--level", "edge", "--retain", "induction", "--eval-examples", 4), "tokens"),
        (("neurons", *SEARCH[:4]), "rounds"),
    ],
)
def test_progress_ends_where_it_said(subcircuit: Run, words: tuple[object, ...], counted: str) -> None:
    found = subcircuit("discover", *SEARCH, "--method", "eap", "--edges", "40%", "--out", "found")
    assert found.code == 0, found.err
    done = subcircuit(*words)
    assert done.code in (0, 1), done.err
    counts = [line for line in done.err.splitlines() if re.match(r"[0-9,]+/[0-9,]+ ", line)]
    assert any(counted in line for line in counts), done.err
    # of one or two parts there is nothing to tell before the end
    assert words[0] in ("keep", "neurons") or any(line.endswith(" left") for line in counts)
    last = re.match(r"([0-9,]+)/([0-9,]+) ", counts[-1])
    assert last is not None
    assert last[1] == last[2], counts[-1]
    if words[0] == "remove":
        assert "% of the way to the target" in done.err
