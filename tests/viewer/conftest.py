"""A browser, circuits that are quick to measure, their report, and a server of them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from subcircuit.cli.browser import find_browser
from subcircuit.graph import Graph, TopN
from subcircuit.report.page import Shown, report_document, write_report
from subcircuit.search import Eap, Problem
from subcircuit.viewer.app import make_app
from subcircuit.viewer.computations import Computations, Probe
from subcircuit.viewer.serve import free_socket
from tests.browser import FLAGS, NONE_FOUND
from tests.problems import random_problem
from tests.tiny_models import VOCAB, tiny

HOSTILE = "<script>document.title='owned'</script>\u2028\u202e<img src=x onerror=document.title='owned'>"
LABELS = {"a1.h2": {"label": HOSTILE, "evidence": "looks at the last token"}, "m0": {"label": "name mover"}}
TOKEN = "a-token-of-the-tests"
# as many are on a path as are selected
EDGES, OTHERS = 80, 60


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    # a machine that is busy with other tests is slow, and not wrong
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        found = find_browser([playwright.chromium.executable_path])
        if found is None:
            pytest.fail(NONE_FOUND, pytrace=False)
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, what it complained of, and what it asked for."""

    page: Page
    complaints: list[str]
    requests: list[str]

    def open(self, address: str) -> Page:
        """Go there and wait until the page can be used."""
        self.page.goto("about:blank")
        self.page.goto(address)
        self.page.wait_for_selector("html[data-ready]")
        return self.page


def drawn(page: Page, edges: int) -> None:
    """So many edges are drawn, to the last of them."""
    expect(page.locator("#edges")).to_have_attribute("data-drawn", str(edges))
    expect(page.locator("#edges:not([data-drawing])")).to_be_attached()


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    """A fresh page; that nothing was complained of, and nobody else asked, is claimed of every test."""
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
    page.set_default_timeout(30_000)
    watched = Watched(page, [], [])
    page.on("console", lambda message: watched.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    page.on("request", lambda request: watched.requests.append(request.url))
    yield watched
    page.close()
    assert watched.complaints == []
    assert all(url.startswith(("file://", "http://127.0.0.1:", "about:")) for url in watched.requests)


@dataclass(frozen=True)
class Sample:
    """Two circuits of one model and how they are measured."""

    problem: Problem
    circuits: tuple[Shown, Shown]


@pytest.fixture(scope="session")
def sample() -> Sample:
    words = {f"w{i}": i for i in range(VOCAB)}
    model = tiny("llama")
    problem = random_problem(model, Graph.of(model.config), 3, [5, 6, 6], 1, "logit_difference", "resample")
    named = {HOSTILE if i == int(problem.task.clean.ids[0, 1]) else word: i for word, i in words.items()}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(named, unk_token="w0")), unk_token="w0")
    problem = replace(problem, model=replace(model, tokenizer=tokenizer))
    scores = Eap().search(problem)
    circuits = scores.select(TopN(EDGES, "absolute")).prune(), scores.select(TopN(OTHERS, "signed")).prune()
    assert circuits[0].n_edges == EDGES
    left, right = (Shown(name, circuit, LABELS) for name, circuit in zip(("by size", "by sign"), circuits, strict=True))
    return Sample(problem, (left, right))


@pytest.fixture(scope="session")
def report(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report of both circuits."""
    file = tmp_path_factory.mktemp("report") / "circuit.html"
    write_report(report_document(sample.circuits, [sample.problem, sample.problem], points=6), file)
    return file.as_uri()


@dataclass
class Running:
    """A server, and what it was told of its search."""

    address: str
    port: int
    progress: dict[str, object]
    circuits: list[Shown]
    computations: Computations


@pytest.fixture(scope="session")
def server(sample: Sample) -> Iterator[Running]:
    with serving(list(sample.circuits), lambda number, shown: sample.problem) as running:
        yield running


@contextmanager
def serving(circuits: list[Shown], probe: Probe) -> Iterator[Running]:
    """A server of circuits that are measured with what ``probe`` gives."""
    progress: dict[str, object] = {"version": "1", "running": False}
    computations = Computations(lambda: circuits, lambda: str(progress["version"]), probe)
    bound = free_socket("127.0.0.1", 8700)
    app = make_app(computations, lambda: dict(progress), host="127.0.0.1", token=TOKEN)
    app = replace(app, seconds=0.5)
    uvicorn_server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="error", lifespan="off"))
    thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not uvicorn_server.started:
        time.sleep(0.01)
    port = bound.getsockname()[1]
    yield Running(f"http://127.0.0.1:{port}/", port, progress, circuits, computations)
    uvicorn_server.should_exit = True
    thread.join(5)


@pytest.fixture
def saved(sample: Sample, tmp_path: Path) -> Path:
    """A circuit directory."""
    sample.circuits[0].circuit.save(tmp_path / "run")
    return tmp_path / "run"
