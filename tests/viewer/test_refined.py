"""The page of a refined run: the slider walks along the circuits of its path, and says what the path says of them."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from subcircuit.cli.circuits import shown_circuits
from subcircuit.graph import Circuit, Graph, Point, RefinePath, Standing, save_path
from subcircuit.report.page import Shown, report_document, write_report
from subcircuit.viewer.run_folders import version_of
from tests.problems import random_kept
from tests.tiny_models import tiny
from tests.viewer.conftest import EDGES, Sample, Watched, drawn, serving

# share of the graph's edges and J on validation prompts, round by round: edges come and go, two rounds do worse than smaller ones,
# and the last is the run's own circuit
ROUNDS = ((0.0, 0.95), (0.2, 0.7), (0.3, 0.9), (0.25, 0.6), (0.32, 0.8), (0.5, 0.1), (0.35, 0.65), (0.4, 0.25), (None, 0.2))


def path_of(circuit: Circuit, *, judged: bool = True) -> RefinePath:
    graph, points = circuit.graph, []
    for number, (share, loss) in enumerate(ROUNDS):
        kept = circuit.kept if share is None else Circuit(graph, random_kept(graph.edges, number, share)).prune().kept
        search, validation = (Standing(loss, 1 - loss * times, 3 * loss * times) for times in (0.7, 1.0))
        points.append(Point("prune" if share is None else "grow", kept, search, validation if judged else None))
    return RefinePath(graph, tuple(points))


@pytest.fixture
def refined(sample: Sample, tmp_path: Path) -> Path:
    """The directory of a refined run."""
    circuit = sample.circuits[0].circuit
    circuit.save(tmp_path / "run")
    save_path(path_of(circuit), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def path(sample: Sample) -> RefinePath:
    return path_of(sample.circuits[0].circuit)


def report_of(sample: Sample, *runs: Path) -> str:
    shown = shown_circuits(runs)
    file = runs[0].parent / f"{len(runs)}.html"
    return write_report(report_document(shown, [sample.problem] * len(runs)), file).as_uri()


def edges_on(page: Page) -> set[str]:
    """The edges that the panel lists."""
    # the panel is written again when the slider has rested
    page.evaluate("() => new Promise((done) => setTimeout(done, 300))")
    section = page.locator("#side section").filter(has_text="strongest edges")
    more = section.locator("button.more")
    if more.count():
        more.click()
    return {name.replace(" → ", "->") for name in section.locator("th .link").all_inner_texts()}


def reading(page: Page, name: str) -> float:
    return float(page.locator(f"#{name}").inner_text().replace("−", "-"))


def shows(page: Page, point: Point, graph: Graph) -> None:
    """The page shows this circuit of the path, and its numbers."""
    drawn(page, point.n_edges)
    expect(page.locator("#count")).to_have_value(str(point.n_edges))
    expect(page.locator("#side .along-path")).to_contain_text(f"This one of {point.n_edges} edges is after a round of")
    assert edges_on(page) == set(Circuit(graph, point.kept).names)
    for side, standing in (("validation", point.validation), ("search", point.search)):
        assert standing is not None
        assert reading(page, f"{side}-faithfulness") == pytest.approx(standing.faithfulness, rel=5e-3)
        assert reading(page, f"{side}-kl") == pytest.approx(standing.kl, rel=5e-3)


def test_every_size_is_the_circuit_that_the_path_gives_for_it(
    watched: Watched, sample: Sample, refined: Path, path: RefinePath
) -> None:
    page = watched.open(report_of(sample, refined))
    own = path.points[-1]
    shows(page, own, path.graph)
    sizes = sorted({point.n_edges for point in path.points})
    # these do worse than smaller ones, and are no stops
    assert len(path.stops) == len(sizes) - 2
    for asked in (*sizes, sizes[0] + 1, sizes[3] - 1):
        page.evaluate("(edges) => (location.hash = `edges=${edges}`)", asked)
        shows(page, path.at(asked), path.graph)
    expect(page.locator("#of")).to_have_text(f"of {sizes[-1]}, sizes of the refinement")
    expect(page.locator("#threshold, #metric, #faithfulness, #kl, #pick-all").locator("visible=true")).to_have_count(0)
    page.evaluate("location.hash = 'edges=1'")
    shows(page, path.stops[0], path.graph)


def test_the_slider_goes_from_one_circuit_of_the_path_to_the_next(
    watched: Watched, sample: Sample, refined: Path, path: RefinePath
) -> None:
    page = watched.open(report_of(sample, refined))
    slider = page.locator("#slider")
    slider.focus()
    page.keyboard.press("Home")
    for number, stop in enumerate(path.stops):
        expect(page.locator("#count")).to_have_value(str(stop.n_edges))
        assert number in (0, len(path.stops) - 1) or 0 < int(slider.input_value()) < 1000
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "1000"
    # all of its room is for sizes of the path
    found = set()
    for step in range(0, 1001, 20):
        slider.evaluate("(s, v) => { s.value = v; s.dispatchEvent(new Event('input')); }", step)
        found.add(int(page.locator("#count").input_value()))
    assert found == {stop.n_edges for stop in path.stops}


def test_the_server_measures_nothing_along_a_path(watched: Watched, sample: Sample, refined: Path, path: RefinePath) -> None:
    with serving(shown_circuits([refined]), lambda number, shown: sample.problem) as running:
        page = watched.open(running.address)
        expect(page.locator("#pick-prompt")).to_be_visible()
        below = [stop for stop in path.stops if stop.n_edges < EDGES]
        for stop in (*reversed(below), below[0]):
            page.locator("#slider").focus()
            page.keyboard.press("ArrowLeft")
            # at once, before anybody could have measured it
            assert page.locator("#validation-kl").inner_text() not in ("", "…", "–")
            shows(page, stop, path.graph)
        page.wait_for_timeout(500)
        expect(page.locator("#measuring")).to_have_text("")
        page.goto("about:blank")
    assert [url for url in watched.requests if url.endswith("/api/measure")] == []
    assert any(url.endswith("/api/prompts") for url in watched.requests)


@pytest.mark.slow
def test_a_report_holds_the_path_and_needs_no_model_for_it(sample: Sample, refined: Path, path: RefinePath) -> None:
    shown = shown_circuits([refined])
    said: list[str] = []
    (part,) = report_document(shown, [sample.problem], most_edges=0, say=said.append)["circuits"]
    assert part["measured"] == {}
    assert [words for words in said if "measur" in words] == [
        "the curve of run over sizes is from its refinement, which measured it"
    ]
    (bare,) = report_document(shown, [None], most_edges=0)["circuits"]
    assert bare["path"] == part["path"]
    assert [stop["validation"]["kl"] for stop in bare["path"]["stops"]] == pytest.approx(
        [stop.validation.kl for stop in path.stops if stop.validation], rel=1e-6
    )
    assert bare["path"]["holds_chosen"]


def test_without_validation_prompts_those_of_the_search_are_named(watched: Watched, sample: Sample, tmp_path: Path) -> None:
    circuit = sample.circuits[0].circuit
    content = report_document([Shown("one", circuit, {}, path_of(circuit, judged=False))], [None])
    page = watched.open(write_report(content, tmp_path / "search.html").as_uri())
    expect(page.locator("#on-validation")).to_be_hidden()
    expect(page.locator("#on-search")).to_be_visible()
    expect(page.locator("#side .along-path")).to_contain_text("did best on the search prompts")


def test_a_chosen_circuit_that_others_outdo_is_told(watched: Watched, sample: Sample, tmp_path: Path) -> None:
    path = path_of(sample.circuits[0].circuit)
    worse = path.points[6]
    shown = Shown("one", Circuit(path.graph, worse.kept), {}, path)
    page = watched.open(write_report(report_document([shown], [None]), tmp_path / "outdone.html").as_uri())
    shows(page, path.at(worse.n_edges), path.graph)
    expect(page.locator("#side .along-path")).to_contain_text(f"The circuit that was chosen has {worse.n_edges} edges")
    expect(page.locator("#side .along-path")).to_contain_text("does better on the validation prompts")


def test_a_path_is_compared_with_another_circuit(watched: Watched, sample: Sample, refined: Path, path: RefinePath) -> None:
    other = sample.circuits[1].circuit
    other.save(refined.parent / "other")
    page = watched.open(f"{report_of(sample, refined, refined.parent / 'other')}#other=1")
    both = Circuit(path.graph, path.at(EDGES).kept).compare(other)
    expect(page.locator("#side .sides dd")).to_have_text(
        [f"{c.n_edges} edges" for c in (both.shared, both.only_left, both.only_right)]
    )
    drawn(page, both.shared.n_edges + both.only_left.n_edges + both.only_right.n_edges)
    expect(page.locator("#of")).to_contain_text("for run sizes of the refinement")
    page.locator("#circuit").select_option("1")
    page.locator("#other").select_option("")
    expect(page.locator("#of")).to_have_text(f"of {other.n_edges}")
    expect(page.locator("#metric")).to_be_visible()


def damage(file: Path, how: str) -> None:
    content = json.loads(file.read_text())
    if how == "twice":
        content["rounds"][2]["added"] *= 2
    elif how == "names":
        content["rounds"][2]["added"].append("<img src=x>\n" * 500)
    elif how == "no number":
        content["rounds"][2]["search"]["loss"] = float("nan")
    elif how == "another circuit":
        del content["rounds"][-1]
    elif how == "short":
        file.write_text(file.read_text()[:-40])
    elif how == "other graph":
        graph = Graph.of(tiny("gpt2").config)
        full = Circuit.full(graph).kept
        save_path(RefinePath(graph, (Point("seed", full, Standing(0.1, 0.9, 0.1), None),)), file.parent)
    elif how == "nothing":
        file.unlink()
        file.symlink_to("elsewhere")
    if how in ("twice", "names", "no number", "another circuit"):
        file.write_text(json.dumps(content))


@pytest.mark.parametrize("how", ["twice", "names", "no number", "another circuit", "short", "other graph", "nothing"])
def test_a_path_that_cannot_be_used_is_told_in_a_line_and_the_page_works(
    watched: Watched, sample: Sample, refined: Path, how: str
) -> None:
    damage(refined / "path.json", how)
    with serving(shown_circuits([refined]), lambda number, shown: sample.problem) as running:
        page = watched.open(running.address)
        lines = page.locator("#warnings p")
        expect(lines).to_have_count(1)
        words = lines.inner_text()
        assert re.match(r"path\.json.*: the slider keeps the strongest edges instead$", words)
        assert len(words) < 200
        assert str(refined.parent) not in words
        drawn(page, EDGES)
        expect(page.locator("#of")).to_have_text(f"of {EDGES}")
        expect(page.locator("#metric")).not_to_have_text(re.compile("≈|…|–"))
        expect(page.locator("#on-search")).to_be_hidden()
        expect(page.locator("#pick-prompt")).to_be_visible()
        page.goto("about:blank")


def test_the_page_sees_that_a_path_has_changed(refined: Path) -> None:
    before = version_of([refined])
    damage(refined / "path.json", "short")
    assert version_of([refined]) != before


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_off_or_moves_along_a_path(
    watched: Watched, sample: Sample, refined: Path, path: RefinePath, width: int, theme: str
) -> None:
    page = watched.page
    page.set_viewport_size({"width": width, "height": 844})
    watched.open(f"{report_of(sample, refined)}#theme={theme}")
    places = []
    for stop in path.stops:
        page.evaluate("([edges, theme]) => (location.hash = `edges=${edges}&theme=${theme}`)", [stop.n_edges, theme])
        drawn(page, stop.n_edges)
        expect(page.locator("#side .along-path")).to_contain_text(f"This one of {stop.n_edges} edges")
        places.append([page.locator(f"#{name}").bounding_box() for name in ("slider", "count", "map", "on-search")])
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for reading_ in page.locator("#controls .stop").all():
            box = reading_.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
    assert all(where[:3] == places[0][:3] for where in places)
    # its words can be read: as far from the page's colour as other words are
    colour = page.locator("#validation-kl").evaluate("(e) => getComputedStyle(e).color")
    assert colour == page.locator("#title").evaluate("(e) => getComputedStyle(e).color")
