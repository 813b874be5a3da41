"""Files that survive: a file is there whole or not at all, and what was reported as written is on the disk."""

import os
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

_BLOCK = 1 << 20


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Make or replace a file: written beside its place, flushed to the disk, renamed, and its directory flushed.

    Args:
        write: fills the file that it is given.

    Raises:
        OSError: the disk is full or fails; the old file, if there was one, is as it was.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        flush(temporary)
        give_default_mode(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
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


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
