"""A run is held by one at a time, threads as well as processes."""

from pathlib import Path
from threading import Thread

import pytest

from subcircuit.errors import RunError
from subcircuit.runs.lock import LOCK_FILE, is_locked, locked


def refusal(folder: Path) -> str | None:
    """What another thread is told that wants the run."""
    told: list[str | None] = []

    def take() -> None:
        try:
            with locked(folder):
                told.append(None)
        except RunError as error:
            told.append(str(error))

    thread = Thread(target=take)
    thread.start()
    thread.join()
    return told[0]


def test_a_lock_is_held_between_threads_and_free_afterwards_though_its_file_stays(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)
        words = refusal(tmp_path)
        assert words is not None
        assert f"another process is working on {tmp_path}" in words
    assert (tmp_path / LOCK_FILE).exists()
    assert not is_locked(tmp_path)
    assert refusal(tmp_path) is None


def test_a_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        _ = 1 // 0
    assert refusal(tmp_path) is None


def test_a_lock_that_cannot_be_made_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(RunError, match=r"\.lock cannot be used: Is a directory"), locked(tmp_path):
        pass
    assert not is_locked(tmp_path)
