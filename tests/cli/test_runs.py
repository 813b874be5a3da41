"""Runs that are killed, stopped, damaged, or met by a full disk: what was written survives, and they end in the same bits."""

import json
import os
import resource
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Any

import pytest

from subcircuit import io
from subcircuit.cli.main import main
from subcircuit.errors import RunError
from subcircuit.graph import Circuit
from subcircuit.runs import DiscoverSpec, SqliteJournal, run_in
from subcircuit.runs.lock import locked
from tests.cli.conftest import Output

Run = Callable[..., Output]
SPEC = DiscoverSpec(model="m", task="t")
# on an old journal as on a new one, every result is a transaction of its own
pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subcircuit.runs.journal.SECONDS_BETWEEN", 0.0)
    # what is shown of a search that is under way depends on the time it takes
    monkeypatch.setattr("subcircuit.runs.progress.SECONDS_BETWEEN", float("inf"))
    # figures take most of the time, and are files like others
    monkeypatch.setattr("subcircuit.report.save_picture", sketch)


def sketch(circuit: Circuit, directory: Path) -> None:
    for name in ("circuit.svg", "circuit.png"):
        (directory / name).write_text(f"a picture of {circuit.n_edges} edges {'.' * 40_000}")


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
        io.os.replace = counted("replace", os.replace)
        main(arguments)

    return in_a_process(work)


def results(folder: Path) -> dict[str, object]:
    """Everything that a run leaves, timings aside."""
    circuit = json.loads((folder / "circuit.json").read_text())
    circuit["record"].pop("timings")
    with sqlite3.connect(folder / "journal.sqlite") as database:
        journal = database.execute("select * from work order by key").fetchall()
    return {"circuit": circuit, "scores": (folder / "scores.safetensors").read_bytes(), "journal": journal}


@pytest.mark.kill
def test_a_killed_run_is_resumed_to_the_same_bits(
    subcircuit: Run, model: str, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, replace, renamed = options(model, prompts), os.replace, list[object]()
    with monkeypatch.context() as patch:
        patch.setattr(io.os, "replace", lambda *names: (renamed.append(names), replace(*names))[1])
        assert subcircuit(*arguments, "whole").code == 0
    expected, count = results(Path("whole")), len(journal_of(Path("whole")))
    # at the first results, in the middle, at the last, and when each of the files of the end is put in its place
    points = [(1, 99), (count // 2, 99), (count, 99), *((99, len(renamed) - last) for last in (5, 4, 3, 2, 1))]
    for number, point in enumerate(points):
        folder = Path(f"run{number}")
        assert killed_after([*arguments, str(folder)], *point) == -signal.SIGKILL
        assert subcircuit("runs", ".", "--json").json["runs"][number]["state"] == "stopped"
        done = subcircuit("resume", folder, "--model", model, "--task", prompts)
        assert done.code == 0, done.err
        assert [name for name, value in results(folder).items() if value != expected[name]] == []
        assert subcircuit("verify", folder).code == 0


COSTS = {"seconds", "forward_seconds", "forward_equivalents", "peak_memory", "peak_memory_bytes", "timings"}


def costless(content: Any) -> Any:
    """JSON without what differs from run to run."""
    if isinstance(content, list):
        return [costless(part) for part in content]
    if not isinstance(content, dict):
        return content
    return {key: costless(part) for key, part in content.items() if key not in COSTS}


def journal_of(folder: Path) -> dict[str, bytes]:
    with sqlite3.connect(folder / "journal.sqlite") as database:
        return dict(database.execute("select key, result from work"))


@pytest.mark.kill
@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (
            "sweep --model MODEL --task TASK --scope block --examples 2 --methods eap-ig-inputs,acdc --thresholds 0.1",
            "sweep.json",
        ),
        ("validate and-gate --method eap-ig-inputs,acdc --thresholds 0.1", "validation.json"),
        ("zoom base a1 --into head --threshold 0.001 --model MODEL --task TASK", "circuit.json"),
    ],
)
def test_other_commands_lose_nothing(subcircuit: Run, model: str, many: Path, arguments: str, file: str) -> None:
    where = {"MODEL": model, "TASK": str(many)}
    given = [where.get(word, word) for word in arguments.split()] + ["--out"]
    if given[0] == "zoom":
        begun = ("--model", model, "--task", many, "--scope", "block", "--examples", 2, "--threshold", 0.001, "--out", "base")
        assert subcircuit("discover", *begun).code == 0
    whole = subcircuit(*given, "whole")
    assert whole.code == 0, whole.err
    expected, units = costless(json.loads(Path("whole", file).read_text())), journal_of(Path("whole"))
    assert killed_after([*given, "run"], len(units) // 2, 99) == -signal.SIGKILL
    before = journal_of(Path("run"))
    places = [word for name, place in where.items() if name in arguments for word in (f"--{name.lower()}", place)]
    done = subcircuit("resume", "run", *places)
    assert done.code == 0, done.err
    assert costless(json.loads(Path("run", file).read_text())) == expected
    after = journal_of(Path("run"))
    # what was finished is as it was, what it cost among it
    assert (len(before) > 0, after.keys(), before.items() <= after.items()) == (True, units.keys(), True)
    assert subcircuit("verify", "run").code == 0


def test_what_a_command_does_not_have_is_refused_when_it_is_resumed(subcircuit: Run) -> None:
    assert subcircuit("validate", "and-gate", "--method", "random", "--out", "run").code == 0
    refused = subcircuit("resume", "run", "--threshold", 0.5)
    assert (refused.code, "--threshold: run is a run of subcircuit validate" in refused.err) == (2, True)
    refused = subcircuit("resume", "run", "--workers", 0)
    assert (refused.code, "workers is 0" in refused.err) == (2, True)
    asked = json.loads(Path("run/run.json").read_text())
    for broken in ({"command": "rm"}, {"command": "validate", "seed": [1]}, "validate", {"command": ["a"]}):
        Path("run/run.json").write_text(json.dumps({**asked, "spec": broken}))
        refused = subcircuit("resume", "run")
        assert (refused.code, "Nothing was changed" in refused.err) == (2, True)


def test_a_run_of_the_first_format_resumes_to_the_same_bits(subcircuit: Run, model: str, prompts: Path) -> None:
    assert subcircuit(*options(model, prompts), "whole").code == 0
    assert killed_after([*options(model, prompts), "run"], 3, 99) == -signal.SIGKILL
    file = Path("run/run.json")
    content = json.loads(file.read_text())
    fields = content["spec"] | {"settings": None, "target": None, "out": None, "json": False, "config": None}
    file.write_text(json.dumps({"format": 1, "asked": fields, "found": content["identity"]}))
    with sqlite3.connect("run/journal.sqlite") as database:
        database.execute("update about set value = ? where name = 'run.json'", (io.digest_of(file),))
    assert "run" in subcircuit("runs", ".").out
    done = subcircuit("resume", "run", "--model", model, "--task", prompts)
    assert done.code == 0, done.err
    assert json.loads(file.read_text())["format"] == 1
    assert Circuit.load("run").names == Circuit.load("whole").names


def said_by(arguments: list[str], before: Callable[[], None]) -> tuple[int, str]:
    """A command in a process of its own: its exit code, and the last line that it says."""

    def work() -> None:
        before()
        os.dup2(os.open("said", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 2)
        sys.stderr = os.fdopen(2, "w")
        code = main(arguments)
        sys.stderr.flush()
        os._exit(code)

    code = in_a_process(work)
    return code, Path("said").read_text().splitlines()[-1]


def interrupt(times: int, after: int) -> None:
    """Ctrl-C while results are being written for the n-th time."""
    write, left = SqliteJournal.write, [after]

    def interrupted(self: SqliteJournal) -> None:
        write(self)
        left[0] -= 1
        if left[0] == 0:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    SqliteJournal.write = interrupted


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(subcircuit: Run, model: str, prompts: Path, times: int) -> None:
    arguments = options(model, prompts)
    assert said_by([*arguments, "run"], lambda: interrupt(times, 3)) == (130, "stopped; resume with: subcircuit resume run")
    assert subcircuit("verify", "run").code == 0
    # at once: not even the results at hand are written again
    assert len(journal_of(Path("run"))) == 3
    assert subcircuit("resume", "run", "--model", model, "--task", prompts).code == 0
    assert subcircuit(*arguments, "whole").code == 0
    assert results(Path("run")) == results(Path("whole"))


@pytest.mark.kill
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bits(subcircuit: Run, model: str, prompts: Path) -> None:
    arguments, rng = options(model, prompts), Random(0)
    began = monotonic()
    assert subcircuit(*arguments, "whole").code == 0
    seconds = monotonic() - began
    go_on = ["resume", "run", "--model", model, "--task", str(prompts)]
    for _ in range(5):
        child = os.fork()
        if child == 0:
            os._exit(main(go_on if Path("run").exists() else [*arguments, "run"]))
        sleep(rng.uniform(0.1, 0.7) * seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert not Path("run").exists() or subcircuit("verify", "run").code == 0
    done = subcircuit(*(go_on if Path("run").exists() else [*arguments, "run"]))
    assert done.code == 0, done.err
    assert results(Path("run")) == results(Path("whole"))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["journal.sqlite", "circuit.svg"])
def test_a_disk_that_fills_up_while_a_run_is_at_work(subcircuit: Run, model: str, prompts: Path, file: str) -> None:
    arguments = options(model, prompts)
    assert subcircuit(*arguments, "whole").code == 0
    size = Path("whole", file).stat().st_size - 1

    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    code, said = said_by([*arguments, "run"], small_disk)
    assert (code, "free disk space" in said) == (2, True), said
    if Path("run").exists():
        assert subcircuit("verify", "run").code == 0
        assert subcircuit("resume", "run", "--model", model, "--task", prompts).code == 0
    else:
        assert subcircuit(*arguments, "run").code == 0
    assert results(Path("run")) == results(Path("whole"))


@pytest.mark.slow
def test_any_flipped_bit_is_found_and_named(subcircuit: Run, model: str, prompts: Path) -> None:
    assert subcircuit(*options(model, prompts, "eap-ig-inputs"), "run").code == 0
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


@pytest.mark.kill
def test_a_damaged_journal_of_a_stopped_run_is_not_used(subcircuit: Run, model: str, prompts: Path) -> None:
    assert killed_after([*options(model, prompts), "run"], 3, 99) == -signal.SIGKILL
    with sqlite3.connect("run/journal.sqlite") as database:
        database.execute("update work set result = x'00' where key = (select min(key) from work)")
    refused = subcircuit("resume", "run", "--model", model, "--task", prompts)
    assert (refused.code, "journal.sqlite is damaged" in refused.err) == (2, True)
    forked = subcircuit("resume", "run", "--model", model, "--task", prompts, "--fork", "new")
    assert forked.code == 0, forked.err
    assert "2 units of work reused" in forked.err


@pytest.mark.kill
def test_another_configuration_is_refused_with_the_difference(subcircuit: Run, model: str, prompts: Path) -> None:
    assert killed_after([*options(model, prompts), "run"], 3, 99) == -signal.SIGKILL
    where = ("--model", model, "--task", prompts)
    changed = subcircuit("resume", "run", *where, "--threshold", 0.5)
    assert (changed.code, "threshold was not set, is 0.5" in changed.err) == (2, True)
    prompts.write_text(prompts.read_text().replace("w5", "w7"))
    changed = subcircuit("resume", "run", *where)
    assert (changed.code, "prompts was" in changed.err) == (2, True)
    prompts.write_text(prompts.read_text().replace("w7", "w5"))
    lines = [{**json.loads(line), "roles": {"S": [0]}} for line in prompts.read_text().splitlines()]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    changed = subcircuit("resume", "run", *where)
    assert (changed.code, "roles was not set, is" in changed.err, "prompts was" in changed.err) == (2, True, False)


@pytest.mark.parametrize("name", ["weights", "config", "tokenizer", "prompts", "dtype", "device", "torch"])
def test_a_run_does_not_go_on_with_anything_else(tmp_path: Path, name: str) -> None:
    found = {name: "one", "same": "same"}
    run_in(tmp_path / "run", SPEC, found, lambda journal: journal.record("unit", b"result"))
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    with pytest.raises(RunError, match=f"other options or inputs: {name} was one, is another"):
        run_in(tmp_path / "run", SPEC, {**found, name: "another"}, lambda journal: None)
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


@pytest.mark.kill
def test_a_run_has_one_process(subcircuit: Run, model: str, prompts: Path) -> None:
    assert killed_after([*options(model, prompts), "run"], 3, 99) == -signal.SIGKILL
    assert Path("run/.lock").exists()  # and holds nothing: its process is dead
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(Path("run")):
            os.write(tell, b"1")
            signal.pause()
    os.read(ready, 1)
    refused = subcircuit("resume", "run", "--model", model, "--task", prompts)
    assert (refused.code, "another process" in refused.err) == (2, True)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert subcircuit("resume", "run", "--model", model, "--task", prompts).code == 0


def test_a_full_disk_leaves_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    SqliteJournal.create(path, "digest")
    journal = SqliteJournal(path)
    journal.record("small", b"kept")
    journal._database.execute("pragma max_page_count = 8")
    with pytest.raises(RunError, match=r"journal\.sqlite cannot be .* full.*free disk space"):
        journal.record("large", bytes(1 << 20))
    journal.close()
    again = SqliteJournal(path)
    assert (again.recall("small"), again.recall("large")) == (b"kept", None)


def test_run_folders_name_no_places_and_no_users(subcircuit: Run, model: str, prompts: Path) -> None:
    assert subcircuit(*options(model, prompts, "eap-ig-inputs"), "run").code == 0
    told = b"".join(file.read_bytes() for file in Path("run").iterdir())
    for place in (str(Path(model).parent), str(prompts.parent), str(Path.home())):
        assert place.encode() not in told


@pytest.mark.slow
@pytest.mark.parametrize("width", [40, 80, 120])
def test_runs_are_listed_in_full_at_any_width(subcircuit: Run, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    search = (
        "discover",
        "--model",
        "tiny-induction-ioi",
        "--task",
        "induction",
        "--metric",
        "logit_difference",
        "--method",
        "eap",
    )
    for name in ("runs/one", "runs/another-with-a-name-of-some-length"):
        assert subcircuit(*search, "--out", name).code == 0
    listed = subcircuit("runs").out
    assert "…" not in listed
    for words in ("runs/one", "runs/another-with-a-name-of-some-length", "discover", "eap", "tiny-induction-ioi", "induction"):
        assert words in " ".join(listed.split()), (words, listed)
    assert max(map(len, listed.splitlines())) <= max(width, len("runs/another-with-a-name-of-some-length"))
    for run in subcircuit("runs", "--json").json["runs"]:
        circuit = Circuit.load(run["path"])
        assert circuit.record is not None
        assert (run["state"], run["edges"]) == ("done", circuit.n_edges)
        assert run["faithfulness"] == circuit.record.results["test"]["faithfulness"]
        assert f"{run['faithfulness']:.2f}" in listed and run["date"][:10] in listed


@pytest.mark.parametrize("name", ["methods", "method", "model", "task", "path", "command"])
@pytest.mark.parametrize("value", [True, 7, {"a": 1}, [None, 2], "word", None])
def test_runs_with_damaged_descriptions_are_listed(subcircuit: Run, name: str, value: object) -> None:
    Path("runs/one").mkdir(parents=True)
    description = {"command": "validate", "case": "and-gate", "methods": ["random"], name: value}
    Path("runs/one/run.json").write_text(json.dumps({"format": 1, "asked": description, "found": {}}))
    done = subcircuit("runs", "--json")
    assert done.code == 0 and [Path(run["path"]).name for run in done.json["runs"]] == ["one"]
