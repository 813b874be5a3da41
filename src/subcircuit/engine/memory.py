"""Peak memory of a piece of work, and the fallback to smaller parts when memory runs out."""

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
    """Warning that work continues in smaller parts, and therefore more slowly, because memory ran out."""


_STATUS, _RESET, _MACHINE = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/meminfo")


@dataclass
class Peak:
    """The peak memory of a piece of work; None until the work is done, or where it cannot be measured.

    Args:
        size: bytes: of the process on a CPU, of tensors on an accelerator. The model is included.
    """

    size: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the peak memory of the work in the ``with`` block; on a CPU this works on Linux only."""
    peak = Peak()
    known = _forget(device)
    yield peak
    if known:
        peak.size = _highest(device)


def free_memory(device: torch.device) -> int | None:
    """Bytes of memory that are still free; None where that cannot be measured."""
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
    """Reset the peak counter; False where that is not possible."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        # this write resets the kernel's high-water mark
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
    """The result of some work on all items, which is split in halves recursively if memory runs out.

    The result is the same up to rounding in the model's dtype: the items and the order of joining do not change.
    A ``ShortOfMemory`` warning reports every split.

    Args:
        work: computes the result for some of the items.
        join: joins the results of two parts, given in order.

    Raises:
        ShortOfMemoryError: a single item does not fit in memory.
    """
    try:
        return work(items)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if len(items) == 1:
            raise ShortOfMemoryError(
                "out of memory even with the smallest batch: use bfloat16 (--dtype), shorter or fewer prompts, or a coarser --scope"
            ) from None
    # only after the except block: the error holds references to intermediate tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    warnings.warn("out of memory: continuing with smaller batches", ShortOfMemory, stacklevel=2)
    middle = len(items) // 2
    return join(in_parts(work, items[:middle], join), in_parts(work, items[middle:], join))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a CPU or on an accelerator."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
