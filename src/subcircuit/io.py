"""Files that survive: a file or directory is there whole or not at all, and what was reported as written is on the disk.

Files from strangers, read within bounds: size, text, JSON without duplicate keys.
"""

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

from subcircuit.errors import CircuitFileError

_BLOCK = 1 << 20


def write_whole(path: Path, write: Callable[[Path], object], *, new: bool = False) -> None:
    """Make or replace a file: written beside its place, flushed to the disk, renamed, and its directory flushed.

    Args:
        write: fills the file that it is given.
        new: never replace a file, even one that appears meanwhile.

    Raises:
        FileExistsError: ``new``, and there is one.
        OSError: the disk is full or fails; the old file, if there was one, is as it was.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        flush(temporary)
        give_default_mode(temporary)
        if new:
            os.link(temporary, path)  # unlike a renaming, a link never takes the place of a file
        else:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Make or replace a UTF-8 file, whole; equal texts are equal bytes on every system."""
    write_whole(path, lambda file: file.write_bytes(text.encode()))


def write_json(path: Path, content: Mapping[str, Any], *, allow_nan: bool = False) -> None:
    """Make or replace a JSON file for people and programs, whole."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=allow_nan) + "\n")


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Make or replace a table, whole; None is an empty cell."""
    table = StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, table.getvalue())


def write_directory(path: Path, fill: Callable[[Path], object], prefix: str | None = None) -> None:
    """Make a directory, or fill an empty one: all of its files appear at once, flushed to the disk, or none.

    Args:
        fill: writes into the directory that it is given.
        prefix: of the name of that directory, which lies beside ``path``; what a killed process leaves has it.

    Raises:
        OSError: there is something else, or the disk is full or fails; what there was is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix or f".{path.name}."))
    try:
        fill(temporary)
        for written in (*temporary.rglob("*"), temporary):
            give_default_mode(written)
            flush(written)
        temporary.rename(path)  # a directory replaces an empty one and nothing else
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # directories cannot be opened there
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def give_default_mode(path: Path) -> None:
    """Give a file or directory the permissions that any new one gets: temporary ones are private, and so is what safetensors writes."""
    path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())


def digest_of(*files: Path) -> str:
    """SHA-256 of the files' bytes, one after another."""
    digest = sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
        raise CircuitFileError(f"{path} is larger than {largest / 2**20:,.0f} MB, the limit for this kind of file")
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
        raise ValueError(f"the key {twice[:80]!r} occurs twice in one object")
    return result
