"""Files and folders that a record names without saying where they are: records are shared, and paths tell of people and machines.

They are looked for where they are likely to be, and known by their digest.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def nearby(name: str, folder: Path) -> Iterator[Path]:
    """Whatever has this name near a folder or near the working directory, the nearest first, each once.

    Near are the working directory, the folder and the two that hold it, all folders directly in one of these, and the folder that
    holds the working directory.

    Args:
        name: of a file or folder, without a path; there is nothing of any other name.
    """
    if name in ("", ".", "..") or Path(name).name != name:
        return
    here, folder = Path.cwd(), folder.absolute()
    around = tuple(dict.fromkeys((here, folder, folder.parent, folder.parent.parent)))
    seen = set[Path]()
    for place in (*around, *(inside for outer in around for inside in _folders_in(outer)), here.parent):
        # what may not be looked at, and what no file can be called, is not there
        with suppress(OSError, ValueError):
            found = place / name
            if found.exists() and found.resolve() not in seen:
                seen.add(found.resolve())
                yield found


def _folders_in(place: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(inside for inside in place.iterdir() if inside.is_dir())
    return []
