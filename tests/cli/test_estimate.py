"""``estimate``, and what ``discover`` says of memory, before anything runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from subcircuit.search import memory
from tests.cli.conftest import Output

Run = Callable[..., Output]

KEYS = {
    "method",
    "edges",
    "edges_kept",
    "trials",
    "seen",
    "seconds",
    "forward_seconds",
    "forward_equivalents",
    "peak_bytes",
    "bytes",
    "estimate_seconds",
}


@pytest.mark.slow
def test_an_estimate_takes_the_options_of_a_search_and_writes_nothing(subcircuit: Run, model: str, prompts: Path) -> None:
    asked = ("--model", model, "--task", prompts, "--threshold", 0.05, "--scope", "head")
    predicted = subcircuit("estimate", *asked, "--json")
    assert predicted.code == 0, predicted.err
    assert predicted.json.keys() == KEYS
    assert [file.name for file in Path().iterdir()] == [prompts.name]
    found = subcircuit("discover", *asked, "--json").json
    assert predicted.json["edges"] == found["edges_total"]
    assert found["trials"] / 2 <= predicted.json["trials"] <= found["trials"] * 2
    told = subcircuit("estimate", *asked)
    assert [line.split()[0] for line in told.out.splitlines() if line[0] != " "] == ["edges", "trials", "edges", "time", "memory"]
    assert f"{found['edges_total']:,}" in told.out


def test_an_estimate_refuses_what_a_search_would_refuse(subcircuit: Run, model: str, prompts: Path) -> None:
    asked = ("estimate", "--model", model, "--task", prompts)
    for more, words in (
        (("--method", "eap", "--threshold", 1, "--edges", 5), "choose"),
        (("--method", "eap", "--metric", "accuracy"), "gradient"),
        (("--coarse-to-fine",), "does not support --coarse-to-fine"),
    ):
        refused = subcircuit(*asked, *more)
        assert (refused.code, refused.out) == (2, "")
        assert words in refused.err


@pytest.mark.slow
def test_a_search_that_needs_more_memory_than_is_free_says_so_first(
    subcircuit: Run, model: str, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--model", model, "--task", prompts, "--method", "eap", "--metric", "logit_difference")
    assert "warning" not in subcircuit("estimate", *asked).err
    monkeypatch.setattr(memory, "free_memory", lambda device: 100)
    done = subcircuit("discover", *asked)
    assert done.code == 0
    (warning,) = (line for line in done.err.splitlines() if line.startswith("warning: besides the model"))
    assert "are free on cpu" in warning
    assert "a smaller --batch-size" in warning
    assert "warning" in subcircuit("estimate", *asked).err
