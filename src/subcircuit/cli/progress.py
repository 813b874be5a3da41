"""How long work is watched: a bar on a terminal, a line every few seconds elsewhere."""

import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from time import monotonic
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from subcircuit.cli.console import plain
from subcircuit.search import OnProgress, Progress

SECONDS_BETWEEN_LINES = 5.0
# seconds by which the speed is judged at least
_SHORTEST_WINDOW = 10.0
# seconds before which no time left is shown: of work that is counted, and of work whose amount is a prediction
_COUNTED_FROM, _PREDICTED_FROM = 5.0, 10.0
# predictions agree that differ by no more than this factor: the latest, and those of these shares of the time; a time that is shown
# already is hidden where they differ by more than another
_AGREE, _DIFFER, _TIMES = 1.3, 2.0, (0.8, 0.6)
# share of the work that is done before its time left is shown
_LEAST_SHARE = 0.1
# seconds of a phase that leaves a line above the bar
_WORTH_A_LINE = 1.0


class Watcher(Protocol):
    """Somewhere to report to."""

    def say(self, message: str) -> None:
        """Announce what takes a while."""
        ...

    def step(self, step: Progress) -> None:
        """Show how far the work is; fits ``discover``'s ``on_step``."""
        ...


@contextmanager
def watch(console: Console) -> Iterator[Watcher]:
    """A watch for as long as something runs: a bar if the console is a terminal, else lines. It tells of short memory."""
    if not console.is_terminal:
        lines = Lines(console)
        with _warned(lines.say):
            yield lines
        lines.end()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        TextColumn("{task.fields[state]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        # a terminal that is too narrow leaves out some of the results, and not the time
        _Time(table_column=Column(no_wrap=True, min_width=len("· 0:00:00 so far"))),
    )
    with Bars(*columns, console=console, expand=True, transient=True) as bars:
        bar = Bar(bars)
        with _warned(bar.say):
            yield bar
        bar.end()


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


def quiet_at_first(show: OnProgress) -> OnProgress:
    """Steps of those searches only that take longer than a few seconds, for where there are hundreds of them."""
    return lambda step: show(step) if step.seconds >= SECONDS_BETWEEN_LINES else None


class Bar:
    """A progress bar for the current phase; finished phases leave a line above it."""

    def __init__(self, bars: Bars) -> None:
        self._bars, self._pace, self._task, self._last = bars, Pace(), None, None

    def say(self, message: str) -> None:
        """Print above the bar."""
        self._bars.console.print(plain(message))

    def step(self, step: Progress) -> None:
        """Move the bar."""
        if self._last is None or _begins(step, self._last):
            self.end()
        self._pace.note(step)
        self._last, share = step, step.share
        # a prediction that rises stops the bar, and does not turn it round
        done = 0.0 if share is None else max(share, 0.0 if self._task is None else self._bars.tasks[-1].completed)
        total, state = None if share is None else 1.0, " · ".join(found(step, done))
        now = {"left": self._pace.left(), "seconds": step.seconds, "at": monotonic()}
        if self._task is None:
            self._task = self._bars.add_task(step.phase, total=total, state=state, time=now)
        self._bars.update(self._task, completed=done, total=total, state=state, time=now)

    def end(self) -> None:
        """Replace the bar of a phase by a line."""
        if self._task is not None and self._last is not None:
            self._bars.remove_task(self._task)
            if self._last.seconds >= _WORTH_A_LINE:
                self.say(_line(self._last, f"{clock(self._last.seconds)} taken"))
        self._task = self._last = None


class _Time(ProgressColumn):
    """The time left, which goes on between steps; while there is none, the time taken."""

    def render(self, task: Task) -> Text:
        """``· 1:05 left`` or ``· 0:12 so far``."""
        now = task.fields["time"]
        return plain(f"· {time_of(now['left'], now['seconds'], monotonic() - now['at'])}")


class Lines:
    """Plain lines, for logs."""

    def __init__(self, console: Console, every: float = SECONDS_BETWEEN_LINES) -> None:
        self._console, self._every, self._pace = console, every, Pace()
        self._last, self._printed, self._ended = None, 0.0, False

    def say(self, message: str) -> None:
        """Print one line."""
        self._console.print(plain(message), soft_wrap=True)

    def step(self, step: Progress) -> None:
        """Print a line if the last one is long enough ago."""
        if self._last is not None and _begins(step, self._last):
            self.end()
        self._pace.note(step)
        self._last = step
        if step.share == 1:
            self._finish(step)
        elif step.seconds - self._printed >= self._every:
            self._printed = step.seconds
            self.say(_line(step, time_of(self._pace.left(), step.seconds)))

    def end(self) -> None:
        """Print a line for a phase that is over."""
        if self._last is not None:
            self._finish(self._last)
        self._last, self._printed, self._ended = None, 0.0, False

    def _finish(self, step: Progress) -> None:
        if not self._ended:
            self.say(_line(step, f"{clock(step.seconds)} taken"))
        self._ended = True


def in_words() -> Callable[[Progress], str]:
    """Says of each step how far the work is."""
    pace = Pace()

    def words(step: Progress) -> str:
        pace.note(step)
        return _line(step, time_of(pace.left(), step.seconds))

    return words


def found(step: Progress, share: float | None) -> list[str]:
    """``["45%", "edges kept 87", "faithfulness 0.93"]``, ``["96/160 runs"]``."""
    numbers = [f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.2f}" for name, value in step.numbers.items()]
    if step.total is None:
        return [f"{step.done:,.0f} {step.unit}", *numbers] if step.unit else numbers
    return [f"{step.done:,.0f}/{step.total:,.0f} {step.unit}" if step.unit else f"{share:.0%}", *numbers]


def _line(step: Progress, time: str) -> str:
    words = " · ".join([*found(step, step.share), time])
    return f"{step.phase}: {words}" if step.phase else words


def time_of(left: float | None, seconds: float, since: float = 0.0) -> str:
    """``1:05 left``, or ``0:12 so far`` while the time left is unknown, some seconds after it was told."""
    return f"{clock(seconds + since)} so far" if left is None else f"{clock(max(left - since, 0.0))} left"


def clock(seconds: float) -> str:
    """``0:42``, ``12:05``, ``3:02:10``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _begins(step: Progress, last: Progress) -> bool:
    """Whether a step is the first of another phase, or of another work of the same name."""
    return step.phase != last.phase or step.seconds < last.seconds


class Pace:
    """How fast work is being done, and how long the rest of a phase will take.

        left = work that is not done · seconds per work, lately

    What is done and what there is to do come from the search, which weighs both by what they cost. The latest half of the time
    speaks for the machine, whose speed changes. No time is told before predictions agree, the latest and those of earlier times, nor
    while they do not; none at all for work whose amount is unknown.
    """

    def __init__(self) -> None:
        self._points, self._totals, self._last, self._shown = [(0.0, 0.0)], list[tuple[float, float]](), None, False

    def note(self, step: Progress) -> None:
        """Take a step into account."""
        if self._last is not None and _begins(step, self._last):
            self.__init__()
        self._last = step
        self._points.append((step.seconds, float(step.done)))
        self._points = self._points[_last_before(self._points, step.seconds - max(step.seconds / 2, _SHORTEST_WINDOW)) :]
        left = self._predicted()
        if left is not None:
            self._totals.append((step.seconds, step.seconds + left))
        late = step.seconds >= (_COUNTED_FROM if step.unit else _PREDICTED_FROM) and (step.share or 0) >= _LEAST_SHARE
        self._shown = left is not None and late and self._agree(step.seconds, _DIFFER if self._shown else _AGREE)

    def left(self) -> float | None:
        """Seconds to go; None while nothing reliable can be said."""
        step = self._last
        if step is None or step.share is None:
            return None
        if step.share == 1:
            return 0.0
        return self._predicted() if self._shown else None

    def _agree(self, seconds: float, factor: float) -> bool:
        """Whether the whole time was predicted the same before, up to a factor."""
        totals, latest = [self._totals[_last_before(self._totals, part * seconds)] for part in _TIMES], self._totals[-1][1]
        return all(
            then <= part * seconds and latest / factor <= total <= latest * factor
            for (then, total), part in zip(totals, _TIMES, strict=True)
        )

    def _predicted(self) -> float | None:
        (then, before), (now, done) = self._points[0], self._points[-1]
        if self._last is None or self._last.total is None or now <= then or done <= before:
            return None
        return (self._last.total - done) * (now - then) / (done - before)


def _last_before(points: Sequence[tuple[float, float]], seconds: float) -> int:
    """The index of the last point at or before a time; the first where none is."""
    return max(bisect_right(points, seconds, key=itemgetter(0)) - 1, 0)
