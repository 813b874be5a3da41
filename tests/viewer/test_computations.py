"""What the server computes: who waits is served first, and everybody sees how far it is."""

import re
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from subcircuit.report.page import PrefixRuns, Ranking, ladder, measured_document
from subcircuit.report.page.arrays import Json
from subcircuit.viewer.computations import Computations
from tests.viewer.conftest import EDGES, Running, Sample, Watched, drawn

WORK = {"words": "measuring 79 edges", "done": 1, "total": 4}


def computations_of(sample: Sample) -> Computations:
    return Computations(lambda: list(sample.circuits), lambda: "1", lambda number, shown: sample.problem)


def known(server: Running) -> set[int]:
    """The sizes that the server has measured."""
    return {point["edges"] for point in server.computations.measure(0, EDGES, kept_only=True, ahead=True)["points"]}


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_every_answer_holds_all_sizes_measured_so_far(sample: Sample) -> None:
    computations, circuit = computations_of(sample), sample.circuits[0].circuit
    first = computations.measure(0, 8, kept_only=True)
    second = computations.measure(0, 40, kept_only=True, ahead=True)
    assert [point["edges"] for point in first["points"]] == [8]
    assert second["points"][0] == first["points"][0]
    exact = measured_document(sample.problem, Ranking.of(circuit), [8, 40], True)
    for name in ("edges", "metric", "kl"):
        assert [point[name] for point in second["points"]] == pytest.approx([point[name] for point in exact["points"]], rel=1e-4)
    assert computations.measure(0, 40, kept_only=False)["points"] != second["points"]


def test_what_is_measured_ahead_gives_way_and_says_how_far_it_is(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    computations, begun, go_on = computations_of(sample), Event(), Event()
    steps: list[Json] = []

    def slow(*given: Any) -> Json:
        pace, (count,) = given[-1], given[2]
        assert isinstance(pace, PrefixRuns)
        for step in range(3):
            pace.journal.recall(f"{step}")
            work = computations.work()
            assert work is not None
            steps.append(dict(work))
            pace.journal.record(f"{step}", b"")
            begun.set()
            if count == 40:
                go_on.wait(20)
        return {"points": [{"edges": count}]}

    monkeypatch.setattr("subcircuit.viewer.computations.measured_document", slow)
    answers: dict[str, Json] = {}
    ahead = Thread(target=lambda: answers.update(ahead=computations.measure(0, 40, kept_only=True, ahead=True)))
    now = Thread(target=lambda: answers.update(now=computations.measure(0, 8, kept_only=True)))
    ahead.start()
    begun.wait(20)
    now.start()
    until(lambda: computations._waited_for == 1)
    go_on.set()
    ahead.join(20)
    now.join(20)
    # it stopped after its first step; what was waited for took all of its own
    assert answers["ahead"]["points"] == []
    assert [point["edges"] for point in answers["now"]["points"]] == [8]
    assert [(step["words"], step["done"], step["total"]) for step in steps] == [
        ("measuring 40 edges", 0, 3),
        *(("measuring 8 edges", done, 3) for done in range(3)),
    ]
    assert computations.work() is None
    assert [point["edges"] for point in computations.measure(0, 40, kept_only=True, ahead=True)["points"]] == [8, 40]


def test_a_size_is_read_from_its_neighbours_until_it_is_measured(watched: Watched, server: Running, sample: Sample) -> None:
    page = watched.open(server.address)
    drawn(page, EDGES)
    # sizes on both sides of what is shown are measured while nobody waits
    sizes = set(ladder(Ranking.of(sample.circuits[0].circuit), kept_only=True))
    until(lambda: page.wait_for_timeout(50) is None and sizes <= known(server))
    held: list[Route] = []
    page.route("**/api/measure", lambda route: held.append(route))
    page.route(
        "**/api/progress",
        lambda route: route.fulfill(json={"version": server.progress["version"], "running": False, "work": WORK}),
    )
    page.locator("#slider").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#metric")).to_have_text(re.compile("^≈ "))
    expect(page.locator("#measuring")).to_have_text("measuring 79 edges")
    assert page.locator("#measured").evaluate("(bar) => bar.value") == pytest.approx(0.25)
    until(lambda: page.wait_for_timeout(20) is None and len(held) == 1)
    page.unroute("**/api/progress")
    held[0].continue_()
    expect(page.locator("#metric")).not_to_have_text(re.compile("≈|…|–"))
    expect(page.locator("#measuring")).to_have_text("")
    page.unroute("**/api/measure")


def test_who_waits_has_a_turn_between_the_prompts(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    computations, begun = computations_of(sample), Event()
    order: list[str] = []

    def slow(*given: Any) -> Json:
        for step in range(3):
            order.append(f"prompt {step}")
            begun.set()
            until(lambda: computations._waited_for == 2 or "measured" in order)
            given[-1]()
            work = computations.work()
            assert work is not None
            assert (work["done"], work["total"]) == (step + 1, 2 * len(sample.problem.task))
        return {}

    monkeypatch.setattr("subcircuit.viewer.computations.prompts_document", slow)
    prompts = Thread(target=lambda: computations.prompts(0))
    prompts.start()
    begun.wait(20)
    computations.measure(0, 8, kept_only=True)
    order.append("measured")
    prompts.join(20)
    assert order.index("measured") < order.index("prompt 2")
    assert order[-1] == "prompt 2"
    assert computations.work() is None
