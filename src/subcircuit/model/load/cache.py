"""The cache directory, digests of large files, and directories that appear whole or not at all."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from platformdirs import user_cache_path

from subcircuit.errors import ModelError
from subcircuit.io import digest_of, write_directory, write_text

_PARTIAL = ".partial-"
_ABANDONED = 24 * 3600  # seconds after which a partial directory belongs to a process that was killed
_WORTH_REMEMBERING = 1 << 24  # bytes; smaller files are hashed faster than they are looked up


def cache_directory() -> Path:
    """``$SUBCIRCUIT_CACHE``, else the system's place for caches (on Linux ``~/.cache/subcircuit``); may not exist yet."""
    return Path(os.environ.get("SUBCIRCUIT_CACHE") or user_cache_path("subcircuit", appauthor=False)).expanduser()


def digest_of_files(files: Sequence[Path]) -> str:
    """sha256 of the files' bytes, one after another.

    The digest of large files is remembered in the cache under their paths, sizes and times of change.
    """
    stats = [file.stat() for file in files]
    if sum(s.st_size for s in stats) < _WORTH_REMEMBERING:
        return digest_of(*files)
    identity = repr([(str(f.resolve()), s.st_size, s.st_mtime_ns) for f, s in zip(files, stats, strict=True)])
    remembered = cache_directory() / "digests" / sha256(identity.encode()).hexdigest()
    try:
        known = remembered.read_text()
        if len(known) == 64:
            return known
    except (OSError, UnicodeDecodeError):
        pass
    digest = digest_of(*files)
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_text(remembered, digest)
    except OSError:
        pass  # a cache that cannot be written costs the time of hashing again, nothing else
    return digest


def make_directory(target: Path, fill: Callable[[Path], None]) -> Path:
    """Create ``target`` with the content that ``fill`` writes into the directory it is given, whole or not at all.

    Where another process finishes first, its directory is used.

    Raises:
        ModelError: the cache cannot be written.
    """
    try:
        _remove_abandoned(target.parent)
        write_directory(target, fill, _PARTIAL)
    except OSError as error:
        if not target.is_dir():
            raise ModelError(
                f"cannot write to the cache {target.parent}: {error.strerror or error}; set SUBCIRCUIT_CACHE to another directory"
            ) from None
    return target


def _remove_abandoned(parent: Path) -> None:
    for partial in parent.glob(f"{_PARTIAL}*"):
        with suppress(FileNotFoundError):  # another process may be removing it too
            if time.time() - partial.stat().st_mtime > _ABANDONED:
                shutil.rmtree(partial, ignore_errors=True)
