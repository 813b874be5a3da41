"""The current place of a recorded model. The digest of its files identifies it, because its name alone is ambiguous."""

from contextlib import suppress
from pathlib import Path

from subcircuit.errors import SubcircuitError
from subcircuit.model.load.builtin import BUILT_IN, SHIPPED, installed_parts
from subcircuit.model.load.cache import digest_of_files
from subcircuit.model.load.directory import digest_of_checkpoint
from subcircuit.nearby import nearby

DIGEST = "sha256:"


def find_model(name: str, revision: str, folder: Path) -> str | None:
    """The argument of `load_model` for the model with these files: its name, or the path of the files.

    Args:
        name: of the model, as recorded.
        revision: the digest of its files, as recorded: ``sha256:…``.
        folder: start of the search for a folder or file of that name, see `nearby`.

    Returns:
        None if neither the name nor any path near the folder has these files.
    """
    if digest_of_name(name) == revision:
        return name
    return next((str(path) for path in nearby(name, folder) if _digest_at(path) == revision), None)


def digest_of_name(name: str) -> str | None:
    """The digest of the files that a short name loads on this machine; None for other names and for models on the hub."""
    if name in SHIPPED:
        return f"{DIGEST}{digest_of_checkpoint(SHIPPED[name].folder)}"
    parts = installed_parts(BUILT_IN[name]) if name in BUILT_IN else ()
    return f"{DIGEST}{digest_of_files(parts)}" if parts else None


def _digest_at(path: Path) -> str | None:
    with suppress(SubcircuitError, OSError):
        return f"{DIGEST}{digest_of_checkpoint(path) if path.is_dir() else digest_of_files([path])}"
    return None
