"""Files and directories appear whole or not at all, and only one module writes them."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from subcircuit import io


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    file = tmp_path / "file"
    io.write_text(file, "old")
    monkeypatch.setattr(io.os, call, full)
    with pytest.raises(OSError, match="No space"):
        io.write_text(file, "new")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("file", "old")]


def test_a_file_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    file = tmp_path / "file"

    def write(temporary: Path) -> None:
        temporary.write_text("ours")
        file.write_text("theirs")

    with pytest.raises(FileExistsError):
        io.write_whole(file, write, new=True)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("file", "theirs")]


@pytest.mark.parametrize("fault", ["fill", "fsync"])
def test_a_directory_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def fill(directory: Path) -> None:
        (directory / "below").mkdir()
        (directory / "below" / "file").write_text("half")
        if fault == "fill":
            full()

    if fault == "fsync":
        monkeypatch.setattr(io.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        io.write_directory(tmp_path / "run", fill)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "there", [lambda place: (place / "theirs").mkdir(parents=True), lambda place: place.write_text("theirs")]
)
def test_a_directory_replaces_nothing_that_holds_something(tmp_path: Path, there: Callable[[Path], None]) -> None:
    there(tmp_path / "run")
    before = {path: path.is_dir() for path in tmp_path.rglob("*")}
    with pytest.raises(OSError, match=r"not empty|Not a directory"):
        io.write_directory(tmp_path / "run", lambda directory: (directory / "ours").write_text("ours"))
    assert {path: path.is_dir() for path in tmp_path.rglob("*")} == before


def test_only_one_module_moves_files_into_their_place() -> None:
    source = Path(io.__file__).parent
    moves = re.compile(r"\bmkstemp\(|\bos\.(replace|rename|link)\(|\.rename\(")
    assert [path.name for path in source.rglob("*.py") if moves.search(path.read_text("utf-8"))] == ["io.py"]
