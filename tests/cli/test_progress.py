"""What commands say while they run: how far they are and how long the rest takes, all in the same way."""

import io
import operator
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from subcircuit.cli.progress import Bar, Pace, clock, quiet_at_first, time_of, watch
from subcircuit.engine.memory import in_parts
from subcircuit.search import Progress
from tests.cli.conftest import Output


def at(
    seconds: int | float, done: int | float, total: int | float | None = 1000, phase: str = "acdc", unit: str = ""
) -> Progress:
    return Progress(phase, done, total, float(seconds), unit, {"edges kept": 7, "faithfulness": 0.25})


def test_time_left_is_exact_at_a_steady_pace() -> None:
    pace = Pace()
    assert pace.left() is None
    for second in range(1, 51):
        pace.note(at(second, 10 * second))
    assert pace.left() == pytest.approx(50.0)
    for second in range(51, 101):
        pace.note(at(second, 10 * second))
    assert pace.left() == 0.0


def test_time_left_follows_a_machine_that_slows_down() -> None:
    pace = Pace()
    for second in range(1, 161):
        pace.note(at(second, second if second <= 40 else 40 + (second - 40) / 4, total=100))
    # 30 units are left at a quarter of a unit a second
    assert pace.left() == pytest.approx(120, rel=0.1)


@pytest.mark.parametrize("step", [at(30, 30, total=None), at(30, 30, total=30 / 0.09)])
def test_no_time_left_is_told_of_work_that_is_unknown_or_has_only_begun(step: Progress) -> None:
    pace = Pace()
    for second in range(1, 31):
        pace.note(replace(step, seconds=float(second), done=float(second)))
    assert pace.left() is None


def test_nothing_is_foretold_from_a_standstill() -> None:
    pace = Pace()
    for second in range(1, 40):
        pace.note(at(second, 500))
    assert pace.left() is None


def test_no_time_left_is_told_while_predictions_differ() -> None:
    """What there is to do seems to double every few seconds, until it is known after half of the time."""
    pace, told = Pace(), dict[int, float | None]()
    for second in range(1, 101):
        pace.note(at(second, second, total=100 if second > 50 else second * 2))
        told[second] = pace.left()
    assert all(told[second] is None for second in range(1, 51))
    shown = {second: left for second, left in told.items() if left is not None}
    assert min(shown) < 90
    assert all(left == pytest.approx(100 - second, abs=1) for second, left in shown.items())


def test_time_goes_on_between_steps() -> None:
    assert [time_of(left, 5.0, 3.0) for left in (22.0, 2.0, None)] == ["0:19 left", "0:00 left", "0:08 so far"]


def test_clock() -> None:
    assert [clock(s) for s in (0.0, 42.4, 725.0, 10930.0)] == ["0:00", "0:42", "12:05", "3:02:10"]


def printed(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_lines_come_every_few_seconds_and_at_the_end() -> None:
    console = Console(file=io.StringIO(), width=200)
    with watch(console) as lines:
        for tenth in range(1, 121):
            lines.step(at(tenth / 10, 8 * tenth, 960))
    assert printed(console) == [
        "acdc: 42% · edges kept 7 · faithfulness 0.25 · 0:05 so far",
        "acdc: 83% · edges kept 7 · faithfulness 0.25 · 0:02 left",
        "acdc: 100% · edges kept 7 · faithfulness 0.25 · 0:12 taken",
    ]


def test_counted_work_is_told_in_its_units_and_unknown_work_by_the_time_so_far() -> None:
    console = Console(file=io.StringIO(), width=200)
    with watch(console) as lines:
        lines.step(at(6, 64, 288, "measure", "runs"))
        lines.step(at(61, 4, None, "grow 2/3", "rounds"))
    numbers = "edges kept 7 · faithfulness 0.25"
    assert printed(console) == [
        f"measure: 64/288 runs · {numbers} · 0:06 so far",
        f"measure: 64/288 runs · {numbers} · 0:06 taken",
        f"grow 2/3: 4 rounds · {numbers} · 1:01 so far",
        f"grow 2/3: 4 rounds · {numbers} · 1:01 taken",
    ]


@pytest.mark.parametrize("phases", [("acdc", "acdc"), ("acdc 1/2", "acdc 2/2")])
def test_another_phase_starts_from_nothing(phases: tuple[str, str]) -> None:
    console = Console(file=io.StringIO(), width=200)
    with watch(console) as lines:
        for phase in phases:
            for second in range(1, 23):
                lines.step(at(second, 10 * second, phase=phase))
    first, second = (printed(console)[start : start + 5] for start in (0, 5))
    assert [line.removeprefix(phases[0]) for line in first] == [line.removeprefix(phases[1]) for line in second]
    assert first[0].endswith("so far")
    assert first[3].endswith("1:20 left")


def test_short_searches_are_not_told_of() -> None:
    told = []
    step = quiet_at_first(told.append)
    for search in ((0.1, 0.4), (1.0, 4.0, 6.0, 9.0)):
        for seconds in search:
            step(at(seconds, 10))
    assert [one.seconds for one in told] == [6.0, 9.0]


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_a_bar_that_fits(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    with watch(console) as bar:
        bar.say("loading [red]tiny[/red]")
        for second in range(1, 19):
            bar.step(at(second, 50 * second, phase="seed 1/3"))
        bar.step(at(7, 3, None, "grow 2/3", "rounds"))
    shown = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", "\n".join(printed(console)))]
    assert "loading [red]tiny[/red]" in shown
    bars = [line for line in shown if "━" in line]
    assert bars[0].startswith("seed 1/3 ━")
    assert bars[0].rstrip().endswith("5% · edges kept 7 · faithfulness 0.25 · 0:01 so far")
    assert "seed 1/3: 90% · edges kept 7 · faithfulness 0.25 · 0:18 taken" in shown
    assert max(map(len, shown)) <= width


def test_a_bar_stops_and_does_not_turn_round_where_more_is_predicted() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with Bars(console=console) as bars:
        bar = Bar(bars)
        for second, total in ((1, 10), (5, 10), (6, 100), (60, 100)):
            bar.step(at(second, second, total))
            shown = bars.tasks[-1].completed
            assert shown == {1: 0.1, 5: 0.5, 6: 0.5, 60: 0.6}[second]


@pytest.mark.filterwarnings("always::subcircuit.engine.memory.ShortOfMemory")
@pytest.mark.parametrize("terminal", [False, True])
def test_short_memory_is_told_in_a_line(terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=terminal)
    with watch(console):
        assert in_parts(lambda some: _at_most_two(list(some)), range(5), operator.add) == [0, 1, 2, 3, 4]
    assert isinstance(console.file, io.StringIO)
    assert "warning: out of memory: continuing with smaller batches" in console.file.getvalue()


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
    monkeypatch.setattr(progress, "_COUNTED_FROM", 0.0)
    monkeypatch.setattr(progress, "_AGREE", 1e9)
    monkeypatch.setattr(progress, "_TIMES", (1.0,))


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
        (("neurons", *SEARCH[:4]), "measure: 24/24 runs"),
    ],
)
def test_progress_ends_where_it_said(subcircuit: Run, words: tuple[object, ...], counted: str) -> None:
    found = subcircuit("discover", *SEARCH, "--method", "eap", "--edges", "40%", "--out", "found")
    assert found.code == 0, found.err
    done = subcircuit(*words)
    assert done.code in (0, 1), done.err
    counts = [line for line in done.err.splitlines() if re.match(r"\w+: [0-9,]+/[0-9,]+ ", line)]
    assert any(counted in line for line in counts), done.err
    # of one or two parts there is nothing to tell before the end
    assert words[0] == "keep" or any(line.endswith(" left") for line in counts)
    last = re.match(r"\w+: ([0-9,]+)/([0-9,]+) ", counts[-1])
    assert last is not None
    assert last[1] == last[2], counts[-1]
    if words[0] == "remove":
        assert re.search(r"^search: [0-9]+ removals tried · [0-9:]+ so far$", done.err, re.MULTILINE)
