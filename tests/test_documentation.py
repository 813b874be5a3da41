"""The documentation: pages made from docstrings are up to date, and every command that is shown is one that there is."""

import re
import shlex
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command

from subcircuit.cli.main import app, main
from subcircuit.search import METHODS

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md"))
)


def commands_in(page: str) -> list[list[str]]:
    """The words of every ``subcircuit …`` in a block of code; lines that end in a backslash are joined."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [*"\n".join(blocks).splitlines(), *re.findall(r"^    (?:\$ )?(subcircuit .*)$", text, flags=re.MULTILINE)]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.strip().startswith("subcircuit ")]


COMMANDS = [(page, words) for page in PAGES for words in commands_in(page)]


def script(name: str) -> ModuleType:
    spec = spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_made_from_docstrings_are_up_to_date() -> None:
    for path, text in script("make_reference").pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is old: python scripts/make_reference.py"


def test_every_method_has_a_page_and_is_linked() -> None:
    linked = set(re.findall(r"\]\(methods/([a-z-]+)\.md\)", (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")))
    assert linked == METHODS.keys() == {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")}


def test_commands_are_found_in_the_documentation() -> None:
    assert len(COMMANDS) > 15
    assert {page for page, _ in COMMANDS} >= {"README.md", "docs/cli.md", "docs/exchange.md"}


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{page}: {' '.join(words)[:60]}" for page, words in COMMANDS])
def test_every_command_in_the_documentation_can_be_given(page: str, words: list[str]) -> None:
    command: Any = get_command(app)
    # a directory that the reader has made before is not there to be read
    words = [word for i, word in enumerate(words) if "--config" not in words[max(0, i - 1) : i + 1]]
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
        command = getattr(command, "command", command)
    if "runs/ioi-again" not in words:
        command.make_context("subcircuit", list(words)).close()


def test_the_configuration_that_is_shown_finds_a_circuit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    assert shown
    monkeypatch.chdir(tmp_path)
    for number, text in enumerate(shown):
        (tmp_path / "a.yaml").write_text(text)
        assert main(["discover", "--config", "a.yaml", "--examples", "2", "--out", f"found-{number}"]) == 0
        assert main(["export", f"found-{number}", "--format", "graphml"]) == 0
