"""The page in a real browser: how soon it can be used, and how soon it follows the slider.

    python benchmarks/viewer.py

Circuits of 1,000 to 100,000 edges of the graph of SmolLM2-135M (30 layers, 9 heads), with random scores, as reports on disk.
``page``: from navigation until the page can be used and its first edges are drawn. ``slider``: from a change of the slider to the
next frame in which it shows, and until every edge is drawn; median and worst of a walk along it. ``work``: processor time of
the page's main thread, for one step and until the page can be used, which other programs on the machine hardly lengthen.
"""

import statistics
import tempfile
from pathlib import Path

import torch
from playwright.sync_api import Page, sync_playwright

from subcircuit.cli.browser import find_browser
from subcircuit.graph import Graph, GraphShape, Scope, TopN, select_edges
from subcircuit.report.page import Shown, report_document, write_report

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
# edges that pruning takes away again
EXTRA = 400
SIZES = (1_000, 10_000, 100_000)
STEPS = (900, 990, 980, 995, 940, 960, 1000, 970, 850, 1000)
# the next frame begins with what was drawn in the last: two of them, and the page has shown it
SLIDE = """(step) => new Promise((done) => {
  const slider = document.getElementById("slider"), edges = document.getElementById("edges"), began = performance.now();
  let first = null;
  slider.value = step;
  slider.dispatchEvent(new Event("input"));
  requestAnimationFrame(() => { first = performance.now() - began; });
  const look = () => {
    if (first === null || edges.dataset.drawing) requestAnimationFrame(look);
    else done([first, performance.now() - began]);
  };
  requestAnimationFrame(look);
})"""
READY = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"""


def report_of(n_edges: int, folder: Path) -> Path:
    """A report of about ``n_edges`` random edges: most are on a path, as those from the embedding and into the logits are strong."""
    graph = Graph(GraphShape(30, 9, 3), Scope())
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(graph.edges.shape, generator=generator) ** 3
    scores[0] *= 50
    scores[:, -1] *= 50
    circuit = select_edges(graph, scores, TopN(n_edges + EXTRA, "absolute")).prune()
    return write_report(report_document([Shown("random", circuit, {})], [None], most_edges=0), folder / f"{n_edges}.html")


def measured(page: Page, file: Path) -> tuple[tuple[float, float], list[tuple[float, float, float]]]:
    """Milliseconds until the page can be used, and work; and of each step of the slider: first frame, every edge, work."""
    page.goto("about:blank")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def work() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return 1000 * next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    before = work()
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready]")
    ready = page.evaluate(READY), work() - before
    page.wait_for_selector("#edges:not([data-drawing])", timeout=120_000)
    steps = []
    for step in STEPS:
        before = work()
        first, whole = page.evaluate(SLIDE, step)
        steps.append((first, whole, work() - before))
    return ready, steps


def main() -> None:
    """Measure and print a table."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        found = find_browser([playwright.chromium.executable_path])
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        print("edges     size      page      (work)   slider: first frame      slider: every edge            slider: work")
        for n_edges in SIZES:
            file = report_of(n_edges, Path(folder))
            ready, steps = measured(page, file)
            first, whole, work = zip(*steps, strict=True)
            print(
                f"{page.locator('#count').input_value():>7} {file.stat().st_size / 1e6:>5.2f} MB {ready[0]:>6.0f} ms {ready[1]:>5.0f} ms"
                f"   median {statistics.median(first):>4.0f}, worst {max(first):>4.0f} ms"
                f"   median {statistics.median(whole):>4.0f}, worst {max(whole):>4.0f} ms"
                f"   median {statistics.median(work):>4.0f}, worst {max(work):>4.0f} ms"
            )
        browser.close()


if __name__ == "__main__":
    main()
