"""Runs that are killed, stopped, damaged, or met by a full disk: what was written survives, and they end in the same bits."""

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from subcircuit import durable
from subcircuit.cli.main import main
from subcircuit.errors import RunError
from subcircuit.runs import SqliteJournal
from subcircuit.runs.lock import locked
from tests.cli.conftest import Output

Run = Callable[..., Output]
# on an old journal as on a new one, every result is a transaction of its own
pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subcircuit.runs.journal.SECONDS_BETWEEN", 0.0)


def options(model: str, prompts: Path, method: str = "acdc") -> list[str]:
    return ["discover", "--model", model, "--task", str(prompts), "--scope", "block", "--method", method, "--out"]


def in_a_process(work: Callable[[], None]) -> int:
    """Do something in a forked process, which starts at once; returns how it ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_after(arguments: list[str], journal_writes: int, renames: int) -> int:
    """A command in a process of its own, which is killed as soon as it has written so often."""

    def work() -> None:
        left = {"write": journal_writes, "replace": renames}

        def counted(name: str, really: Callable[..., None]) -> Callable[..., None]:
            def act(*given: object) -> None:
                if left[name] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[name] -= 1
                really(*given)

            return act

        SqliteJournal.write = counted("write", SqliteJournal.write)
        durable.os.replace = counted("replace", os.replace)
        main(arguments)

    return in_a_process(work)


def results(folder: Path) -> dict[str, object]:
    """Everything that a run leaves, timings aside."""
    circuit = json.loads((folder / "circuit.json").read_text())
    circuit["record"].pop("timings")
    with sqlite3.connect(folder / "journal.sqlite") as database:
        journal = database.execute("select * from work order by key").fetchall()
    return {"circuit": circuit, "scores": (folder / "scores.safetensors").read_bytes(), "journal": journal}


@pytest.mark.parametrize("method", ["acdc", "exact"])
def test_a_killed_run_is_resumed_to_the_same_bits(subcircuit: Run, model: str, prompts: Path, method: str) -> None:
    arguments = options(model, prompts, method)
    assert subcircuit(*arguments, "whole").code == 0
    expected, count = results(Path("whole")), len(results(Path("whole"))["journal"])  # pyright: ignore[reportArgumentType]
    # at the first results, in the middle, at the last, and when each of the files of the end is put in its place
    points = [(1, 99), (count // 2, 99), (count, 99), (99, 1), (99, 2), (99, 3)]
    for number, point in enumerate(points):
        folder = Path(f"run{number}")
        assert killed_after([*arguments, str(folder)], *point) == -signal.SIGKILL
        assert subcircuit("runs", ".", "--json").json["runs"][number]["state"] == "stopped"
        done = subcircuit("resume", folder, "--model", model, "--task", prompts)
        assert done.code == 0, done.err
        assert [name for name, value in results(folder).items() if value != expected[name]] == []
        assert subcircuit("verify", folder).code == 0


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(subcircuit: Run, model: str, prompts: Path) -> None:
    arguments = [*options(model, prompts), "run"]

    def work() -> None:
        write = SqliteJournal.write
        SqliteJournal.write = lambda self: (write(self), os.kill(os.getpid(), signal.SIGINT))[0]
        os.dup2(os.open("said", os.O_CREAT | os.O_WRONLY), 2)
        sys.stderr = os.fdopen(2, "w")
        code = main(arguments)
        sys.stderr.flush()
        os._exit(code)

    assert in_a_process(work) == 130
    assert Path("said").read_text().splitlines()[-1] == "stopped; to go on: subcircuit resume run"
    assert subcircuit("verify", "run").code == 0
    assert subcircuit("resume", "run", "--model", model, "--task", prompts).code == 0


def test_any_flipped_bit_is_found_and_named(subcircuit: Run, model: str, prompts: Path) -> None:
    assert subcircuit(*options(model, prompts, "eap"), "run").code == 0
    files = sorted(file for file in Path("run").iterdir() if not file.name.startswith("."))
    assert len(files) == 7
    for file in files:
        whole = file.read_bytes()
        for damaged in (
            whole[: len(whole) // 2],
            bytes([whole[0] ^ 1]) + whole[1:],
            whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:],
        ):
            file.write_bytes(damaged)
            found = subcircuit("verify", "run")
            assert (found.code, found.out) == (2, "")
            assert file.name in found.err
            assert subcircuit("resume", "run").code == 2
        file.write_bytes(whole)
    assert subcircuit("verify", "run").code == 0


def test_a_damaged_journal_of_a_stopped_run_is_not_used(subcircuit: Run, model: str, prompts: Path) -> None:
    assert killed_after([*options(model, prompts), "run"], 3, 99) == -signal.SIGKILL
    with sqlite3.connect("run/journal.sqlite") as database:
        database.execute("update work set result = x'00' where key = (select min(key) from work)")
    refused = subcircuit("resume", "run", "--model", model, "--task", prompts)
    assert (refused.code, "journal.sqlite is damaged" in refused.err) == (2, True)
    forked = subcircuit("resume", "run", "--model", model, "--task", prompts, "--fork", "new")
    assert forked.code == 0, forked.err
    assert "2 units of work taken over" in forked.err


def test_another_configuration_is_refused_with_the_difference(subcircuit: Run, model: str, prompts: Path) -> None:
    assert killed_after([*options(model, prompts), "run"], 3, 99) == -signal.SIGKILL
    where = ("--model", model, "--task", prompts)
    changed = subcircuit("resume", "run", *where, "--threshold", 0.5)
    assert (changed.code, "threshold was not set, is 0.5" in changed.err) == (2, True)
    prompts.write_text(prompts.read_text().replace("w5", "w7"))
    changed = subcircuit("resume", "run", *where)
    assert (changed.code, "prompts was" in changed.err) == (2, True)


def test_a_run_has_one_process(subcircuit: Run, model: str, prompts: Path) -> None:
    assert killed_after([*options(model, prompts), "run"], 3, 99) == -signal.SIGKILL
    assert Path("run/.lock").exists()  # and holds nothing: its process is dead
    with locked(Path("run")):
        refused = subcircuit("resume", "run", "--model", model, "--task", prompts)
        assert (refused.code, "another process" in refused.err) == (2, True)
    assert subcircuit("resume", "run", "--model", model, "--task", prompts).code == 0


def test_a_full_disk_leaves_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    SqliteJournal.create(path, "digest")
    journal = SqliteJournal(path)
    journal.record("small", b"kept")
    journal._database.execute("pragma max_page_count = 8")
    with pytest.raises(RunError, match=r"journal\.sqlite cannot be .* full.*make room"):
        journal.record("large", bytes(1 << 20))
    journal.close()
    again = SqliteJournal(path)
    assert (again.recall("small"), again.recall("large")) == (b"kept", None)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    file = tmp_path / "file"
    durable.write_whole(file, lambda temporary: temporary.write_text("old"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, call, full)
    with pytest.raises(OSError, match="No space"):
        durable.write_whole(file, lambda temporary: temporary.write_text("new"))
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("file", "old")]


def test_run_folders_name_no_places_and_no_users(subcircuit: Run, model: str, prompts: Path) -> None:
    assert subcircuit(*options(model, prompts, "eap"), "run").code == 0
    told = b"".join(file.read_bytes() for file in Path("run").iterdir())
    for place in (str(Path(model).parent), str(prompts.parent), str(Path.home())):
        assert place.encode() not in told
