"""How much memory a piece of work takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """The most memory that was in use at once; None until the work is done, or where it cannot be told.

    Args:
        size: bytes, of the process on the processor, of tensors on an accelerator. The model is included.
    """

    size: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Watch the memory that the work in the ``with`` block takes; on the processor on Linux only."""
    peak = Peak()
    known = _forget(device)
    yield peak
    if known:
        peak.size = _highest(device)


def _forget(device: torch.device) -> bool:
    """Begin to watch; False where that is not possible."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        # the kernel forgets its high-water mark
        _RESET.write_text("5")
    except OSError:
        return False
    return device.type == "cpu"


def _highest(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    (mark,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(mark.split()[1]) * 1024
