"""The documentation: the site builds, its links hold, it has every exported name, and commands that are shown can be given."""

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pytest
from typer.main import get_command

import subcircuit
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


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """The site of a repository, built as ``make docs`` builds it, where no other machine can be reached."""
    unreachable = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)]
    environment = {**os.environ, **unreachable, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr
    return folder


@pytest.mark.slow
def test_every_exported_name_has_an_entry_in_the_reference(site: Path) -> None:
    inventory = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    entries = {line.split()[0]: line.split()[1] for line in inventory.splitlines()}
    for name in subcircuit.__all__:
        value = getattr(subcircuit, name)
        assert entries.get(f"subcircuit.{name}", entries.get(f"{value.__module__}.{name}")) in ("py:class", "py:function"), name


def test_every_setting_of_a_method_is_explained() -> None:
    for method in METHODS.values():
        told = inspect.getdoc(method) or ""
        for field in fields(cast(Any, method)):
            assert re.search(rf"^    (\w+, )*{field.name}(, \w+)*:", told, flags=re.MULTILINE), f"{method.__name__}.{field.name}"


@pytest.mark.slow
def test_the_site_needs_nothing_from_elsewhere(site: Path) -> None:
    loaded = [
        (page.name, address)
        for page in site.rglob("*.html")
        for address in re.findall(
            r"<(?:script|img|link rel=\"(?:stylesheet|icon)\")[^>]*(?:src|href)=\"([^\"]+)", page.read_text("utf-8")
        )
    ]
    assert len(loaded) > 100
    assert [address for address in loaded if "//" in address[1]] == []


@pytest.mark.slow
@pytest.mark.parametrize("link", ["nowhere.md", "cli.md#nowhere", "../src/nowhere.py"])
def test_a_broken_link_fails(link: str, tmp_path: Path) -> None:
    for name in ("docs", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("src", "benchmarks", "examples", "LICENSE"):
        (tmp_path / name).symlink_to(ROOT / name)
    with (tmp_path / "docs" / "install.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[A link]({link}) that leads nowhere.\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert "nowhere" in done.stderr


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


@pytest.mark.slow
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
