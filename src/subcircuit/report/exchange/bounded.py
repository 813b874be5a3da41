"""Files from strangers, read within bounds: size, text, JSON without duplicate keys."""

import json
from pathlib import Path
from typing import Any

from subcircuit.errors import CircuitFileError

LARGEST_FILE = 1 << 28


def read_bytes(path: Path, largest: int = LARGEST_FILE) -> bytes:
    """The content of a file of at most ``largest`` bytes.

    Raises:
        CircuitFileError: it is larger, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except (OSError, ValueError) as error:
        raise CircuitFileError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > largest:
        raise CircuitFileError(f"{path} is larger than {largest / 2**20:,.0f} MB, the most that is read of a file of its kind")
    return content


def read_text(path: Path) -> str:
    """The content of a UTF-8 file.

    Raises:
        CircuitFileError: it is too large, cannot be read, or is something else.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CircuitFileError(f"{path} is not UTF-8 text (byte {error.start:,})") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file; NaN is read as Python's own module writes it.

    Raises:
        CircuitFileError: too large, too deep, not JSON, or an object that says a key twice.
    """
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise CircuitFileError(f"{path} cannot be read as JSON: {error}") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return result
