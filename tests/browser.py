"""The browser of the page's tests: any Chrome or Chromium that is found, else one that is fetched.

python -m tests.browser     makes sure that there is one, and ends with one line where there is none
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import sync_playwright

from subcircuit.cli.browser import NAMES, find_browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
NONE_FOUND = (
    f"no Chrome or Chromium for the tests of the page: looked for {', '.join(NAMES)} on the PATH and for Playwright's own. "
    f"Install one (Debian: apt-get install chromium) or fetch one: {sys.executable} -m playwright install --with-deps chromium"
)
Command = list[str]


def own() -> str:
    """Where Playwright keeps its own browser, once it has been fetched."""
    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def ways_to_fetch() -> Iterator[tuple[str, list[Command]]]:
    """What to try where no browser is found: a name for it and its commands."""
    yield "Playwright's Chromium", [[sys.executable, "-m", "playwright", "install", "--no-shell", "chromium"]]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", "chromium"]
        yield "Debian's chromium", [["apt-get", "update", "-qq"], install]


def main() -> str | None:
    """None where there is a browser, fetched if need be; else one line that says what to do."""
    if find_browser():
        return None
    others = [own()]
    if find_browser(others):
        return None
    reasons = []
    for name, commands in ways_to_fetch():
        sys.stderr.write(f"no browser found for the tests of the page: fetching {name}, once\n")
        reason = _first_failure(commands)
        if find_browser(others):
            return None
        reasons.append(f"{name}: {reason or 'fetched, but does not start'}")
    return f"{NONE_FOUND}. Tried {'; '.join(reasons)}"


def _first_failure(commands: list[Command]) -> str | None:
    """Run commands up to the first that fails; the error that it names, None where all succeed."""
    for command in commands:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            errors = re.findall(r"^(?:Error|E|error): ?(.+)$", done.stdout, re.MULTILINE)
            return errors[0].strip() if errors else f"{Path(command[0]).name} ended with {done.returncode}"
    return None


if __name__ == "__main__":
    sys.exit(main())
