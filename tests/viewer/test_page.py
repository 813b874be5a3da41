"""The page in a browser: a report opened from disk, and the same page from the server."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect

from subcircuit.graph import Circuit, Expert, Graph, Logits, Neuron, Scope, TopN, select_edges
from subcircuit.report.page import Ranking, Shown, measured_document, report_document, write_report
from tests.tiny_models import tiny
from tests.viewer.conftest import EDGES, HOSTILE, Running, Sample, Watched


def drawn(page: Page, edges: int) -> None:
    """So many edges are drawn, to the last of them."""
    expect(page.locator("#edges")).to_have_attribute("data-drawn", str(edges))
    expect(page.locator("#edges:not([data-drawing])")).to_be_attached()


def ink(page: Page) -> int:
    """How many pixels of the map are painted."""
    return page.evaluate(
        "() => { const c = document.getElementById('edges');"
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 === 3 && v > 8).length; }"
    )


def slide(page: Page, step: int) -> None:
    page.locator("#slider").evaluate("(s, v) => { s.value = v; s.dispatchEvent(new Event('input')); }", step)


def strongest(circuit: Circuit, count: int) -> list[str]:
    """Names of the strongest edges, sorted in plain Python."""
    graph, scores = circuit.graph, circuit.scores
    assert scores is not None
    return sorted(circuit.names, key=lambda name: -abs(float(scores[graph.find(name)])))[:count]


def test_the_slider_leaves_the_strongest_edges_and_moves_nothing(watched: Watched, report: str, sample: Sample) -> None:
    page = watched.open(report)
    drawn(page, EDGES)
    before, places = ink(page), page.evaluate("[...document.querySelectorAll('.node')].map((n) => n.style.cssText)")
    slide(page, 500)
    count = int(page.locator("#count").input_value())
    assert 1 < count < EDGES
    drawn(page, count)
    assert ink(page) < before
    assert page.evaluate("[...document.querySelectorAll('.node')].map((n) => n.style.cssText)") == places
    names = strongest(sample.circuits[0].circuit, count)
    touched = {part for name in names for part in re.sub("<.>", "", name).split("->")} | {"embed", "logits"}
    assert set(page.locator(".node:not(.out)").evaluate_all("(all) => all.map((n) => n.dataset.node)")) == touched
    shown = page.locator("#side section").filter(has_text="strongest edges").locator("th .link")
    expect(shown.first).to_have_text(names[0].replace("->", " → "))
    assert f"edges={count}" in page.url


def test_edges_beyond_the_circuit_are_shown_when_asked_for(watched: Watched, report: str, sample: Sample) -> None:
    page = watched.open(report)
    drawn(page, EDGES)
    page.locator("#all").check()
    drawn(page, sample.circuits[0].circuit.graph.n_edges)


def test_hovering_names_edges_and_components(watched: Watched, report: str) -> None:
    page = watched.open(f"{report}#edges=1")
    drawn(page, 1)
    page.locator("[data-node='m0']").hover()
    expect(page.locator("#tip")).to_contain_text("m0")
    expect(page.locator("#tip")).to_contain_text("name mover")
    name = page.locator("#side th .link").first.inner_text()
    x, y = page.evaluate(
        "() => { const c = document.getElementById('edges'), w = c.width, d = c.getContext('2d').getImageData(0, 0, w, c.height).data;"
        "const painted = []; for (let i = 3; i < d.length; i += 4) if (d[i] > 100) painted.push((i - 3) / 4);"
        "const at = painted[painted.length >> 1], box = c.getBoundingClientRect();"
        "return [box.left + (at % w) * box.width / w, box.top + Math.floor(at / w) * box.height / c.height]; }"
    )
    page.mouse.move(x, y)
    expect(page.locator("#tip strong")).to_have_text(name)
    expect(page.locator("#tip")).to_contain_text("effect")


def test_a_component_opens_with_what_it_reads_and_looks_at(watched: Watched, report: str, sample: Sample) -> None:
    page = watched.open(report)
    circuit = sample.circuits[0].circuit
    head = next(name for name in circuit.names if name.startswith("a1.h")).partition("->")[0]
    page.locator(f"[data-node='{head}']").click()
    side = page.locator("#side")
    expect(side.locator("h2")).to_have_text(head)
    reads = sum(re.sub("<.>", "", name).endswith(f"->{head}") for name in circuit.names)
    writes = sum(name.startswith(f"{head}->") for name in circuit.names)
    assert writes
    expect(side).to_contain_text(f"writes {writes} edge")
    if reads:
        expect(side).to_contain_text(f"reads {reads} edge")
    expect(side.locator("canvas.matrix")).to_be_visible()
    for run in ("corrupted", "difference"):
        side.get_by_role("button", name=run, exact=True).click()
        expect(side.get_by_role("button", name=run, exact=True)).to_have_attribute("aria-pressed", "true")
    expect(side).to_contain_text("direct effect on the logit difference")
    page.keyboard.press("Escape")
    expect(side.locator("h2")).to_have_text("by size")


def test_a_prompt_shows_its_tokens_and_its_own_effects(watched: Watched, report: str) -> None:
    page = watched.open(report)
    first = page.locator("#side section").filter(has_text="strongest edges").locator("td.value").all_inner_texts()
    page.locator("#prompt").select_option("1")
    section = page.locator("#side section").filter(has_text="on this prompt")
    expect(section).to_be_visible()
    assert section.locator("td.value").all_inner_texts() != first
    expect(page.locator("#side mark").first).to_be_visible()
    assert "prompt=1" in page.url


def test_two_circuits_are_compared(watched: Watched, report: str, sample: Sample) -> None:
    page = watched.open(report)
    page.locator("#other").select_option("1")
    both = sample.circuits[0].circuit.compare(sample.circuits[1].circuit)
    counts = [f"{c.n_edges} edges" for c in (both.shared, both.only_left, both.only_right)]
    expect(page.locator("#side .sides dd")).to_have_text(counts)
    drawn(page, both.shared.n_edges + both.only_left.n_edges + both.only_right.n_edges)


def test_a_report_knows_what_a_threshold_costs(watched: Watched, report: str, sample: Sample) -> None:
    page = watched.open(report)
    model, behaviour, circuit = sample.probed.model, sample.probed.behaviour, sample.circuits[0].circuit
    exact = measured_document(model, circuit.graph, behaviour, Ranking.of(circuit), [EDGES], True)["points"][0]
    shown = page.locator("#metric").inner_text().replace("−", "-")
    assert float(shown) == pytest.approx(exact["metric"], rel=5e-3)
    slide(page, 450)
    expect(page.locator("#metric")).to_have_text(re.compile("≈"))


def test_everything_can_be_done_with_the_keyboard(watched: Watched, report: str) -> None:
    page = watched.open(report)
    page.keyboard.press("/")
    page.keyboard.type("mover")
    expect(page.locator(".node.hit")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.locator("#side h2")).to_have_text("m0")
    page.keyboard.press("Escape")
    page.locator(".node[tabindex='0']").focus()
    first = page.evaluate("document.activeElement.dataset.node")
    page.keyboard.press("ArrowUp")
    second = page.evaluate("document.activeElement.dataset.node")
    assert second not in (None, first)
    page.keyboard.press("Enter")
    expect(page.locator("#side h2")).to_have_text(second)
    page.locator("#slider").focus()
    page.keyboard.press("Home")
    drawn(page, 1)
    expect(page.locator("#said")).to_contain_text("1 edge shown")
    assert page.locator("button:not([hidden])").evaluate_all(
        "(all) => all.every((b) => b.ariaLabel || b.textContent || b.dataset.node)"
    )


def test_the_address_brings_a_view_back(watched: Watched, report: str) -> None:
    page = watched.open(f"{report}#edges=7&node=m0&theme=dark&prompt=99&other=zz&circuit=-3")
    drawn(page, 7)
    expect(page.locator("#side h2")).to_have_text("m0")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_hostile_tokens_and_labels_are_inert(watched: Watched, report: str) -> None:
    page = watched.open(f"{report}#prompt=0&node=a1.h2")
    expect(page.locator("#side .label")).to_contain_text("<script>document.title")
    page.locator("#side .back").click()
    expect(page.locator("#side .tokens").first).to_contain_text("<script>document.title")
    assert page.title() != "owned"
    assert page.locator("img").count() == 0
    assert not set("\u2028\u202e") & set(page.locator("body").inner_text())
    assert set("\u2028\u202e") <= set(HOSTILE)


def test_the_server_measures_what_the_slider_leaves(watched: Watched, server: Running, sample: Sample) -> None:
    page = watched.open(f"{server.address}#edges=9")
    drawn(page, 9)
    circuit = sample.circuits[0].circuit
    exact = measured_document(sample.probed.model, circuit.graph, sample.probed.behaviour, Ranking.of(circuit), [9], True)[
        "points"
    ][0]
    expect(page.locator("#metric")).not_to_have_text(re.compile("…|–"))
    assert float(page.locator("#metric").inner_text().replace("−", "-")) == pytest.approx(exact["metric"], rel=5e-3)
    expect(page.locator("#pick-prompt")).to_be_visible()
    expect(page.locator("#prompt option")).to_have_count(4)


def test_a_running_search_grows_on_the_page(watched: Watched, server: Running, sample: Sample) -> None:
    page = watched.open(server.address)
    drawn(page, EDGES)
    whole = server.circuits[0]
    half = whole.circuit.select(whole.circuit.names[:20])
    server.circuits[0] = type(whole)(whole.name, half, whole.labels)
    server.progress.update(version="2", running=True, done=3, total=4, words="3/4 edges")
    try:
        drawn(page, 20)
        expect(page.locator("#progress")).to_contain_text("3/4 edges")
    finally:
        server.circuits[0] = whole
        server.progress.update(version="3", running=False)


def test_a_screen_reader_finds_everything_by_role_and_name(watched: Watched, report: str) -> None:
    page = watched.open(f"{report}#node=a1.h2&prompt=0")
    expect(page.locator("#side h2")).to_have_text("a1.h2")
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    heard = [(node["role"]["value"], node.get("name", {}).get("value", ""), node) for node in tree if not node["ignored"]]
    named = {(role, name) for role, name, _ in heard}
    assert {
        ("slider", "edges"),
        ("spinbutton", "number of edges shown"),
        ("searchbox", "find a component"),
        ("combobox", "circuit"),
        ("combobox", "compare with"),
        ("combobox", "prompt"),
        ("checkbox", "also edges outside the circuit"),
        ("button", "change to dark colours"),
        ("image", f"{EDGES} edges between components, layers from bottom to top"),
        ("region", "circuit"),
        ("complementary", "details"),
        ("table", "what it reads"),
        ("heading", "a1.h2"),
    } <= named
    focusable = [
        (role, name)
        for role, name, node in heard
        if role != "RootWebArea"
        and any(one["name"] == "focusable" and one["value"]["value"] for one in node.get("properties", []))
    ]
    assert len(focusable) > 20
    assert [role for role, name in focusable if not name.strip()] == []
    assert any(role == "image" and name.startswith("attention, clean: ") for role, name in named)
    # where the focus is can be seen, and the tab key comes to the map once
    assert page.locator("#nodes button[tabindex='0']").count() == 1


def test_parts_of_a_component_share_its_row_and_have_room(watched: Watched, tmp_path: Path) -> None:
    graph = Graph.of(tiny("qwen2_moe").config, Scope.named("qkv, m0=expert, m1=neuron, a1=block"))
    scores = torch.randn(graph.edges.shape, generator=torch.Generator().manual_seed(0))
    circuit = select_edges(graph, scores, TopN(graph.n_edges, "absolute"))
    file = write_report(report_document([Shown("mixed", circuit, {})], [None]), tmp_path / "mixed.html")
    page = watched.open(file.as_uri())
    boxes = {
        name: (left, right, top, words)
        for name, left, right, top, words in page.locator(".node").evaluate_all(
            "(all) => all.map((n) => [n.dataset.node, n.offsetLeft, n.offsetLeft + n.offsetWidth, n.offsetTop, n.textContent])"
        )
    }
    assert set(boxes) == {str(node) for node in (*graph.writers, Logits())}
    for layer, kind in ((0, Expert), (1, Neuron)):
        parts = [boxes[str(w)] for w in graph.writers if isinstance(w, kind) and w.layer == layer]
        assert len(parts) > 2
        assert len({top for _, _, top, _ in parts}) == 1
        assert all(one[1] <= other[0] for one, other in pairwise(sorted(parts)))
    assert all(boxes[f"m0.e{expert}"][3].endswith(f"e{expert}") for expert in range(graph.shape.experts))
    # the block is as wide as the heads that it stands for
    heads = [boxes[f"a0.h{head}"] for head in range(graph.shape.n_heads)]
    assert boxes["a1"][:2] == pytest.approx((heads[0][0], heads[-1][1]), abs=2)


def test_parts_and_places_can_be_pointed_at_and_opened(watched: Watched, tmp_path: Path) -> None:
    graph = Graph.of(tiny("qwen2_moe").config, Scope.named("qkv, m0=expert, m1=neuron, positions=each"), ("0", "1", "2"))
    scores = torch.randn(graph.edges.shape, generator=torch.Generator().manual_seed(0))
    arc = [f"embed->m2@{place}" for place in ("2", "0", "1")]
    for rank, name in enumerate(arc):
        scores[graph.find(name)] = 9.0 - rank
    circuit = select_edges(graph, scores, TopN(300, "absolute"))
    page = watched.open(write_report(report_document([Shown("placed", circuit, {})], [None]), tmp_path / "placed.html").as_uri())
    drawn(page, circuit.n_edges)
    # whatever has an edge lies above what has none, and can be hit
    hidden = page.locator(".node:not(.out)").evaluate_all(
        "(all) => all.filter((n) => { const r = n.getBoundingClientRect(); const hit = document.elementFromPoint(r.x + r.width / 2,"
        "r.y + r.height / 2); return hit?.closest('[data-node]') !== n; }).map((n) => n.dataset.node)"
    )
    assert hidden == []
    # edges of the same components at several places lie on each other: all of them are told
    left, right = (page.locator(f"[data-node='{name}']").bounding_box() for name in ("m2", "embed"))
    assert left is not None
    assert right is not None
    for x in range(int(left["x"] + left["width"]) + 40, 900, 2):
        page.mouse.move(x, (left["y"] + right["y"]) / 2)
        if page.locator("#tip").is_visible() and "embed → m2" in page.locator("#tip").inner_text():
            break
    told = page.locator("#tip p").all_inner_texts()
    assert [line.split()[0] for line in told] == [name.removeprefix("embed->m2") for name in arc]
    neuron = page.locator(".node:not(.out)[data-node^='m1.n']").last.get_attribute("data-node")
    for node, what in ((neuron, "neuron, layer 1"), ("m0.e1", "expert, layer 0")):
        page.locator(f"[data-node='{node}']").click()
        expect(page.locator("#side h2")).to_have_text(str(node))
        expect(page.locator("#side")).to_contain_text(what)
    read = [name.partition("->m0.e1")[2] for name in circuit.names if "->m0.e1@" in name]
    into_router = [f"router {name.partition('<router>')[2]}" for name in circuit.names if "->m0<router>@" in name]
    section = page.locator("#side section").filter(has_text=re.compile("^reads"))
    if section.locator("button.more").count():
        section.locator("button.more").click()
    assert sorted(section.locator(".note").all_inner_texts()) == sorted(read + into_router)


def test_numbers_of_one_prompt_say_what_they_are(watched: Watched, report: str) -> None:
    page = watched.open(f"{report}#prompt=0")
    words = page.locator("#side section").filter(has_text="effect of cutting an edge on this prompt")
    expect(words).to_contain_text("logit difference, estimated to first order (eap), for this prompt alone")
