"""How a search is watched: a bar on a terminal, a line every few seconds elsewhere."""

import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from subcircuit.cli.console import plain
from subcircuit.search import OnProgress, Refining, Round, Step

SECONDS_BETWEEN_LINES = 5.0
# seconds by which the speed is judged at least, and before which nothing is foretold
_SHORTEST_WINDOW, _SHORTEST_TIME = 10.0, 10.0
# foretellings agree that differ by no more than this factor: the latest, and those of these shares of the time
_AGREE, _TIMES = 1.25, (0.75, 0.5)
# the share of the work that a search has to have done before it is believed what its share is
_LEAST_SHARE = 0.15
# parts into which a bar is divided
_BAR = 10_000


class Watcher(Protocol):
    """Somewhere to report to."""

    def say(self, message: str) -> None:
        """Announce what takes a while."""
        ...

    def step(self, step: Step | Round | Refining) -> None:
        """Show how far a search is; fits ``discover``'s ``on_step``."""
        ...


@contextmanager
def watch(console: Console) -> Iterator[Watcher]:
    """A watch for as long as something runs: a bar if the console is a terminal, else lines. It tells of short memory."""
    if not console.is_terminal:
        lines = Lines(console)
        with _warned(lines.say):
            yield lines
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[state]}", markup=False),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        bar = Bar(progress)
        with _warned(bar.say):
            yield bar


@contextmanager
def _warned(say: Callable[[str], None]) -> Iterator[None]:
    """Say what the library warns of, instead of showing a line of its source."""
    from subcircuit.engine.memory import ShortOfMemory

    with warnings.catch_warnings():
        show = warnings.showwarning

        def told(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, ShortOfMemory):
                say(f"warning: {message}")
            else:
                show(message, category, *where, **more)

        warnings.showwarning = told
        yield


def both(first: OnProgress, second: OnProgress) -> OnProgress:
    """Tells two of each step."""

    def on_step(step: Step | Round | Refining) -> None:
        first(step)
        second(step)

    return on_step


def quiet_at_first(show: OnProgress) -> OnProgress:
    """Steps of those searches only that take longer than a few seconds, for where there are hundreds of them."""
    return lambda step: show(step) if step.seconds >= SECONDS_BETWEEN_LINES else None


class Bar:
    """A progress bar that appears with the first step."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._pace, self._task = progress, Pace(), None

    def say(self, message: str) -> None:
        """Print above the bar."""
        self._progress.console.print(plain(message))

    def step(self, step: Step | Round | Refining) -> None:
        """Move the bar."""
        self._pace.note(step)
        if self._task is None:
            self._task = self._progress.add_task("", total=_BAR, state="")
        self._progress.update(
            self._task,
            completed=round(_BAR * step.share),
            description=f"{_place(step):<10}",
            state=state_of(step, self._pace.left()),
        )


class Lines:
    """Plain lines, for logs."""

    def __init__(self, console: Console, every: float = SECONDS_BETWEEN_LINES) -> None:
        self._console, self._every, self._pace, self._last, self._ended = console, every, Pace(), 0.0, False

    def say(self, message: str) -> None:
        """Print one line."""
        self._console.print(plain(message), soft_wrap=True)

    def step(self, step: Step | Round | Refining) -> None:
        """Print a line if the last one is long enough ago."""
        self._pace.note(step)
        if step.seconds < self._last:
            # another search began
            self._last, self._ended = 0.0, False
        ends = step.done == step.total and not self._ended
        if step.seconds - self._last >= self._every or ends:
            self._last, self._ended = step.seconds, step.done == step.total
            self.say(": ".join(part for part in (_place(step), state_of(step, self._pace.left())) if part))


def in_words() -> Callable[[Step | Round | Refining], str]:
    """Says of each step of one search how far it is."""
    pace = Pace()

    def words(step: Step | Round | Refining) -> str:
        pace.note(step)
        return " ".join(part for part in (_place(step), state_of(step, pace.left())) if part)

    return words


def state_of(step: Step | Round | Refining, left: float | None) -> str:
    """``45,210/123,211 edges · 87 kept · 310 trials/s · 1:05 left``, or ``96/160 rounds · 0:12 left``."""
    if isinstance(step, Refining):
        words = [f"{step.kept:,} edges", f"faithfulness {step.faithfulness:.2f}", f"KL {step.kl:.2f}"]
    elif isinstance(step, Step):
        words = [f"{step.decided:,}/{step.edges:,} edges", f"{step.kept:,} kept"]
        if step.seconds > 0:
            words.append(f"{step.trials / step.seconds:,.0f} trials/s")
    else:
        # shares are told as such
        words = [f"{step.done} {step.unit}" if step.unit.startswith("%") else f"{step.done:,}/{step.total:,} {step.unit}"]
    if left is not None and step.done < step.total:
        words.append(f"{clock(left)} left")
    return " · ".join(words)


def _place(step: Step | Round | Refining) -> str:
    match step:
        case Step():
            return step.reader
        case Refining():
            return f"round {step.round} ({step.action})"
        case Round():
            return ""


def clock(seconds: float) -> str:
    """``0:42``, ``12:05``, ``3:02:10``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Pace:
    """How fast work is being done, and how long the rest will take.

        left = work done · (1 − share) / share · seconds per work, lately

    Both come from the search: the share weighs what is to come by what it will cost, the work weighs what was done by what it did
    cost. The latest half of the time speaks for the machine, whose speed changes. Early on the share means little: nothing is
    foretold before foretellings agree, the latest and those of half and of three quarters of the time.
    """

    def __init__(self) -> None:
        self._points, self._totals = [(0.0, 0.0)], list[tuple[float, float]]()
        self._steady, self._share = False, 0.0

    def note(self, step: Step | Round | Refining) -> None:
        """Take a step into account."""
        if step.seconds < self._points[-1][0]:
            # another search began
            self.__init__()
        self._share = step.share
        self._points.append((step.seconds, step.work))
        self._points = self._points[_last_before(self._points, step.seconds - max(step.seconds / 2, _SHORTEST_WINDOW)) :]
        left = self._foretold()
        if left is None or self._steady:
            return
        total, seconds = step.seconds + left, step.seconds
        self._totals.append((seconds, total))
        agree = all(self._agrees(total, part * seconds) for part in _TIMES)
        guessed = isinstance(step, Step) and step.share < _LEAST_SHARE
        self._steady = agree and seconds >= _SHORTEST_TIME and not guessed

    def _agrees(self, total: float, then: float) -> bool:
        """Whether the foretelling of then was about the same."""
        seconds, before = self._totals[_last_before(self._totals, then)]
        return seconds <= then and total / _AGREE <= before <= total * _AGREE

    def left(self) -> float | None:
        """Seconds to go; None while there is nothing to judge by."""
        return self._foretold() if self._steady or self._share == 1 else None

    def _foretold(self) -> float | None:
        (then, before), (now, work) = self._points[0], self._points[-1]
        if self._share == 1:
            return 0.0
        if now <= then or work <= before or not self._share:
            return None
        return work * (1 - self._share) / self._share * (now - then) / (work - before)


def _last_before(points: Sequence[tuple[float, float]], seconds: float) -> int:
    """The index of the last point at or before a time; the first where none is."""
    return max(bisect_right(points, seconds, key=itemgetter(0)) - 1, 0)
