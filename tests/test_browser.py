"""The browser of the page's tests is any that starts, else one that is fetched, else one line says what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from subcircuit.cli.browser import find_browser
from tests import browser

ROOT = Path(__file__).parent.parent


def program(folder: Path, name: str, words: str) -> str:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{words}\n")
    file.chmod(0o755)
    return str(file)


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome", "chrome"])
def test_any_chrome_or_chromium_on_the_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_browser() is None
    path = program(tmp_path, name, "exit 0")
    assert find_browser() == path


def test_browsers_that_do_not_start_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    program(tmp_path / "bin", "chromium-browser", "echo 'requires the chromium snap' >&2; exit 1")
    playwrights = program(tmp_path / "own", "chrome", "exit 0")
    assert find_browser([str(tmp_path / "absent"), playwrights]) == playwrights
    better = program(tmp_path / "bin", "google-chrome", "exit 0")
    assert find_browser([playwrights]) == better


def test_a_browser_is_fetched_where_none_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = tmp_path / "own" / "chrome"
    make = f"mkdir -p {fetched.parent} && printf '#!/bin/sh\\nexit 0\\n' > {fetched} && chmod +x {fetched}"
    ways = [
        ("a broken one", [["/bin/sh", "-c", "echo Error: no network >&2; exit 3"]]),
        ("a good one", [["/bin/sh", "-c", make]]),
    ]
    monkeypatch.setattr(browser, "own", lambda: str(fetched))
    monkeypatch.setattr(browser, "ways_to_fetch", lambda: iter(ways[:1]))
    monkeypatch.setattr(browser, "find_browser", lambda others=(): next((path for path in others if os.path.exists(path)), None))
    words = browser.main()
    assert words is not None
    assert words.endswith("Tried a broken one: no network")
    assert not fetched.exists()
    monkeypatch.setattr(browser, "ways_to_fetch", lambda: iter(ways))
    assert browser.main() is None
    assert fetched.exists()


@pytest.mark.slow
def test_without_any_the_tests_stop_with_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    # nothing on the PATH, no browser of Playwright's, and a host from which nothing can be fetched
    nowhere = {"PATH": str(tmp_path), "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path), "PLAYWRIGHT_DOWNLOAD_HOST": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.browser"],
        cwd=ROOT,
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last.startswith("no Chrome or Chromium for the tests of the page")
    assert "playwright install --with-deps chromium" in last
    assert last.endswith("Tried Playwright's Chromium: connect ECONNREFUSED 127.0.0.1:9")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2
