"""How a search is watched: a bar on a terminal, a line every few seconds elsewhere."""

import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from subcircuit.cli.console import plain
from subcircuit.search import OnProgress, Round, Step

SECONDS_BETWEEN_LINES = 5.0
_SHORTEST_WINDOW = 20.0


class Watch(Protocol):
    """Somewhere to report to."""

    def say(self, message: str) -> None:
        """Announce what takes a while."""
        ...

    def step(self, step: Step | Round) -> None:
        """Show how far a search is; fits ``discover``'s ``on_step``."""
        ...


@contextmanager
def watch(console: Console) -> Iterator[Watch]:
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
    from subcircuit.run.memory import ShortOfMemory

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

    def on_step(step: Step | Round) -> None:
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

    def step(self, step: Step | Round) -> None:
        """Move the bar."""
        self._pace.note(step)
        if self._task is None:
            self._task = self._progress.add_task("", total=step.total, state="")
        self._progress.update(
            self._task,
            completed=step.done,
            total=step.total,
            description=f"{_place(step):<10}",
            state=state_of(step, self._pace.left()),
        )


class Lines:
    """Plain lines, for logs."""

    def __init__(self, console: Console, every: float = SECONDS_BETWEEN_LINES) -> None:
        self._console, self._every, self._pace, self._last = console, every, Pace(), 0.0

    def say(self, message: str) -> None:
        """Print one line."""
        self._console.print(plain(message), soft_wrap=True)

    def step(self, step: Step | Round) -> None:
        """Print a line if the last one is long enough ago."""
        self._pace.note(step)
        if step.seconds < self._last:
            # another search began
            self._last = 0.0
        if step.seconds - self._last >= self._every or step.done == step.total:
            self._last = step.seconds
            self.say(": ".join(part for part in (_place(step), state_of(step, self._pace.left())) if part))


def in_words() -> Callable[[Step | Round], str]:
    """Says of each step of one search how far it is."""
    pace = Pace()

    def words(step: Step | Round) -> str:
        pace.note(step)
        return " ".join(part for part in (_place(step), state_of(step, pace.left())) if part)

    return words


def state_of(step: Step | Round, left: float | None) -> str:
    """``45,210/123,211 edges · 87 kept · 310 trials/s · 1:05 left``, or ``96/160 rounds · 0:12 left``."""
    if isinstance(step, Step):
        words = [f"{step.decided:,}/{step.edges:,} edges", f"{step.kept:,} kept"]
        if step.seconds > 0:
            words.append(f"{step.trials / step.seconds:,.0f} trials/s")
    else:
        words = [f"{step.done:,}/{step.total:,} rounds"]
    if left is not None:
        words.append(f"{clock(left)} left")
    return " · ".join(words)


def _place(step: Step | Round) -> str:
    return step.reader if isinstance(step, Step) else ""


def clock(seconds: float) -> str:
    """``0:42``, ``12:05``, ``3:02:10``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Pace:
    """How fast edges are being decided, or examples measured.

    Near the logits almost every edge is tried and trials are cheap; further down trials cost more and whole readers
    go untested. So the latest half of the time speaks for what is left, not the average since the start.
    """

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()
        self._total = 0

    def note(self, step: Step | Round) -> None:
        """Take a step into account."""
        self._total = step.total
        if self._points and step.seconds < self._points[-1][0]:
            # another search began
            self._points.clear()
        self._points.append((step.seconds, step.done))
        start = min(step.seconds / 2, step.seconds - _SHORTEST_WINDOW)
        while len(self._points) > 2 and self._points[1][0] <= start:
            self._points.popleft()

    def left(self) -> float | None:
        """Seconds to go; None while there is nothing to judge by."""
        if len(self._points) < 2:
            return None
        (then, before), (now, decided) = self._points[0], self._points[-1]
        if now - then < 1.0 or decided <= before:
            return 0.0 if decided == self._total else None
        return (self._total - decided) * (now - then) / (decided - before)
