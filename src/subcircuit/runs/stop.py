"""Ctrl-C during a run: the first writes the journal and leaves, the second leaves at once; the journal is intact either way."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from subcircuit.errors import Stopped


class Stop:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def leave(self) -> None:
        """Leave if that was asked for: called where everything that was worked out is on the disk.

        Raises:
            KeyboardInterrupt: it was.
        """
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def stoppable(message: str) -> Iterator[Stop]:
    """A block that Ctrl-C stops where it does no harm; outside the main thread signals stay as they are.

    Args:
        message: message of ``Stopped``, with the command to resume.
    """
    stop = Stop()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    try:
        before = signal.signal(signal.SIGINT, on_signal)
    except ValueError:
        before = None
    try:
        yield stop
    except KeyboardInterrupt:
        raise Stopped(message) from None
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
