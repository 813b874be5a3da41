"""Commands that take long say how far they are and how long the rest takes: all in the same way."""

import re
from collections.abc import Callable
from functools import partial

import pytest

from tests.cli.conftest import Output

Run = Callable[..., Output]
SEARCH = ("--model", "tiny-induction-ioi", "--task", "induction", "--metric", "logit_difference")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines come at every step, and times as soon as there are two that agree."""
    from subcircuit.cli import progress

    monkeypatch.setattr(progress, "Lines", partial(progress.Lines, every=0.0))
    monkeypatch.setattr(progress, "_SHORTEST_TIME", 0.0)
    monkeypatch.setattr(progress, "_AGREE", 1e9)
    monkeypatch.setattr(progress, "_LEAST_SHARE", 0.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("words", "counted"),
    [
        (("evaluate", "found"), "1,792 runs"),
        (("explain", "found"), "parts"),
        (("report", "found", "--out", "page.html"), "runs"),
        (("remove", "found", "--out", "edited", "--target", 0.5, "--eval-examples", 4, "--relearn", 4), "4 steps"),
        (("keep", "found", "--out", "edited", "--level", "edge", "--retain", "induction", "--eval-examples", 4), "tokens"),
        (("neurons", *SEARCH[:4]), "rounds"),
    ],
)
def test_progress_ends_where_it_said(subcircuit: Run, words: tuple[object, ...], counted: str) -> None:
    found = subcircuit("discover", *SEARCH, "--method", "eap", "--edges", "40%", "--out", "found")
    assert found.code == 0, found.err
    done = subcircuit(*words)
    assert done.code in (0, 1), done.err
    counts = [line for line in done.err.splitlines() if re.match(r"[0-9,]+/[0-9,]+ ", line)]
    assert any(counted in line for line in counts), done.err
    # of one or two parts there is nothing to tell before the end
    assert words[0] in ("keep", "neurons") or any(line.endswith(" left") for line in counts)
    last = re.match(r"([0-9,]+)/([0-9,]+) ", counts[-1])
    assert last is not None
    assert last[1] == last[2], counts[-1]
    if words[0] == "remove":
        assert "% of the way to the target" in done.err
