"""How much memory a piece of work takes, and what is done where there is too little."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from subcircuit.errors import ShortOfMemoryError

Result = TypeVar("Result")


class ShortOfMemory(UserWarning):
    """Work goes on in smaller parts than it was meant to, and more slowly."""


_STATUS, _RESET, _MACHINE = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/meminfo")


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


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had; None where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu" or not _MACHINE.exists():
        return None
    (line,) = (line for line in _MACHINE.read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def size_in_words(size: int) -> str:
    """``31 GB``, ``4.2 GB``, ``0.3 MB``: bytes in powers of a thousand, to two digits."""
    amount, unit = (size / 1e9, "GB") if size >= 1e8 else (size / 1e6, "MB")
    return f"{amount:,.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"


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


def in_parts(work: Callable[[range], Result], items: range, join: Callable[[Result, Result], Result]) -> Result:
    """Do work on items at once, or where memory does not suffice on one half after the other, and so on.

    What comes of it is the same but for rounding in the model's dtype: which items there are, and in which order their
    results are joined, does not change. A ``ShortOfMemory`` warning says that it happened.

    Args:
        work: on some of the items.
        join: the results of two parts, the first of them first.

    Raises:
        ShortOfMemoryError: one item is too much.
    """
    try:
        return work(items)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if len(items) == 1:
            raise ShortOfMemoryError(
                "out of memory with the smallest piece of work there is: try bfloat16 (--dtype), shorter or fewer prompts, or a "
                "coarser --scope"
            ) from None
    # only now, as the error held on to what was worked out
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    warnings.warn("out of memory: going on in smaller parts", ShortOfMemory, stacklevel=2)
    middle = len(items) // 2
    return join(in_parts(work, items[:middle], join), in_parts(work, items[middle:], join))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is memory that lacks, on the processor or on an accelerator."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
