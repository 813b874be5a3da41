"""Search for Chrome or Chromium on this machine, for the page's tests and benchmark."""

import shutil
import subprocess
from collections.abc import Sequence

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_SECONDS_TO_ANSWER = 30


def find_browser(others: Sequence[str] = ()) -> str | None:
    """The path of the first browser that starts; None if there is none.

    Args:
        others: paths to try after the names on the PATH, e.g. that of Playwright's own browser.
    """
    on_path = (path for name in NAMES if (path := shutil.which(name)))
    return next((path for path in (*on_path, *others) if _starts(path)), None)


def _starts(path: str) -> bool:
    """Whether a browser prints its version; snap stubs and browsers with missing libraries do not."""
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, timeout=_SECONDS_TO_ANSWER, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0
