"""Search for files and folders that a record names without a path. Records are shared, and paths would reveal people and machines.

The search covers likely places; the caller recognises the file by its digest.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def nearby(name: str, folder: Path) -> Iterator[Path]:
    """The paths with this name near a folder or the working directory, nearest first, each once.

    The search covers the working directory, the folder and its two parents, all folders directly in one of these, and the parent of
    the working directory.

    Args:
        name: name of a file or folder, without a path; any other name has no results.
    """
    if name in ("", ".", "..") or Path(name).name != name:
        return
    here, folder = Path.cwd(), folder.absolute()
    around = tuple(dict.fromkeys((here, folder, folder.parent, folder.parent.parent)))
    seen = set[Path]()
    for place in (*around, *(inside for outer in around for inside in _folders_in(outer)), here.parent):
        # forbidden paths and impossible names count as missing
        with suppress(OSError, ValueError):
            found = place / name
            if found.exists() and found.resolve() not in seen:
                seen.add(found.resolve())
                yield found


def _folders_in(place: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(inside for inside in place.iterdir() if inside.is_dir())
    return []
