"""The page in a browser: a report opened from disk, and the same page from the server."""

import re
from itertools import combinations, pairwise
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect

from subcircuit.graph import Circuit, Expert, Graph, Logits, Neuron, Scope, TopN, select_edges
from subcircuit.report.layout import Layout
from subcircuit.report.page import Ranking, Shown, measured_document, report_document, write_report
from tests.tiny_models import tiny
from tests.viewer.conftest import EDGES, HOSTILE, Running, Sample, Watched, drawn


def ink(page: Page) -> int:
    """How many pixels of the map are painted."""
    return page.evaluate(
        "() => { const c = document.getElementById('edges');"
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 === 3 && v > 8).length; }"
    )


def slide(page: Page, step: int) -> None:
    page.locator("#slider").evaluate("(s, v) => { s.value = v; s.dispatchEvent(new Event('input')); }", step)


def pruned(circuit: Circuit) -> list[Circuit]:
    """What pruning leaves of the strongest edges, for every number of them."""
    graph, scores = circuit.graph, circuit.scores
    assert scores is not None
    names = sorted(circuit.names, key=lambda name: -abs(float(scores[graph.find(name)])))
    return [Circuit.of_edges(graph, names[:length]).prune() for length in range(len(names) + 1)]


def after_sliding(circuit: Circuit, count: int) -> Circuit:
    """What the slider leaves: the largest of these circuits with at most so many edges."""
    return max((one for one in pruned(circuit) if one.n_edges <= count), key=lambda one: one.n_edges)


def inside(page: Page) -> set[str]:
    """The components that are drawn as part of the circuit."""
    return set(page.locator(".node:not(.out)").evaluate_all("(all) => all.map((n) => n.dataset.node)"))


def test_the_slider_leaves_the_strongest_edges_and_moves_nothing(watched: Watched, report: str, sample: Sample) -> None:
    page = watched.open(report)
    drawn(page, EDGES)
    before, places = ink(page), page.evaluate("[...document.querySelectorAll('.node')].map((n) => n.style.cssText)")
    slide(page, 700)
    count = int(page.locator("#count").input_value())
    assert 1 < count < EDGES
    drawn(page, count)
    assert ink(page) < before
    assert page.evaluate("[...document.querySelectorAll('.node')].map((n) => n.style.cssText)") == places
    circuit = sample.circuits[0].circuit
    left = after_sliding(circuit, count)
    assert left.n_edges == count
    shown = page.locator("#side section").filter(has_text="strongest edges").locator("th .link")
    assert circuit.scores is not None
    first = max(left.names, key=lambda name: abs(float(circuit.scores[circuit.graph.find(name)])))  # pyright: ignore[reportOptionalSubscript]
    expect(shown.first).to_have_text(first.replace("->", " → "))
    assert "edges=" in page.url


@pytest.mark.parametrize("asked", [1, 2, 5, 10, 23, 40, EDGES])
def test_every_edge_and_component_shown_is_on_a_path(watched: Watched, report: str, sample: Sample, asked: int) -> None:
    page = watched.open(f"{report}#edges={asked}")
    circuit = sample.circuits[0].circuit
    count = int(page.locator("#count").input_value())
    left = after_sliding(circuit, count)
    assert (left.n_edges, left.prune().n_edges) == (count, count)
    # the slider stops at the largest circuit that is no larger than asked, or at the smallest that there is
    assert count == (after_sliding(circuit, asked).n_edges or count)
    drawn(page, count)
    assert inside(page) == {str(node) for node in left.nodes}
    for node in inside(page) - {"embed", "logits"}:
        page.locator(f"[data-node='{node}']").hover()
        expect(page.locator("#tip")).not_to_contain_text(re.compile("reads 0 edges|writes 0 edges"))


def test_kept_edges_on_no_path_are_counted_and_not_drawn(watched: Watched, sample: Sample, tmp_path: Path) -> None:
    graph = sample.circuits[0].circuit.graph
    circuit = Circuit.of_edges(graph, ["embed->m0", "m0->logits", "m0->m1", "a1.h0->logits", "a0.h0->m2"])
    page = watched.open(write_report(report_document([Shown("apart", circuit, {})], [None]), tmp_path / "apart.html").as_uri())
    drawn(page, 2)
    assert inside(page) == {"embed", "m0", "logits"}
    expect(page.locator("#of")).to_have_text("of 2, 3 more on no path")
    expect(page.locator("#side")).to_contain_text("3 kept edges on no path")


def test_arrow_keys_on_the_slider_go_from_circuit_to_circuit(watched: Watched, report: str, sample: Sample) -> None:
    page = watched.open(f"{report}#edges=1")
    sizes = sorted({one.n_edges for one in pruned(sample.circuits[0].circuit)} - {0})
    page.locator("#slider").focus()
    for size in sizes[1:6]:
        page.keyboard.press("ArrowRight")
        expect(page.locator("#count")).to_have_value(str(size))
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#count")).to_have_value(str(sizes[4]))
    page.locator("#count").fill(str(sizes[4] + 1))
    page.keyboard.press("Enter")
    expect(page.locator("#count")).to_have_value(str(sizes[5]))


def test_edges_beyond_the_circuit_are_shown_when_asked_for(watched: Watched, report: str, sample: Sample) -> None:
    page = watched.open(report)
    drawn(page, EDGES)
    page.locator("#all").check()
    drawn(page, sample.circuits[0].circuit.graph.n_edges)


# points of the map where an edge is painted and no component of the circuit lies over it
PAINTED = """(count) => {
  const c = document.getElementById("edges"), data = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
  const box = c.getBoundingClientRect(), nodes = [...document.querySelectorAll(".node:not(.out)")].map((n) => n.getBoundingClientRect());
  const points = [];
  for (let i = 3; i < data.length; i += 4) {
    if (data[i] <= 100) continue;
    const at = (i - 3) / 4, x = box.left + ((at % c.width) * box.width) / c.width, y = box.top + (Math.floor(at / c.width) * box.height) / c.height;
    if (!nodes.some((n) => x > n.left - 2 && x < n.right + 2 && y > n.top - 2 && y < n.bottom + 2)) points.push([x, y]);
  }
  return Array.from({ length: count }, (_, i) => points[Math.floor((i * points.length) / count)]);
}"""


def test_pointing_finds_what_is_seen(watched: Watched, report: str, sample: Sample) -> None:
    page = watched.open(f"{report}#edges=20")
    page.wait_for_selector("#edges:not([data-drawing])")
    circuit = sample.circuits[0].circuit
    left = after_sliding(circuit, 20)
    names = {name.replace("->", " → ") for name in left.names}
    tip = page.locator("#tip strong")
    for x, y in page.evaluate(PAINTED, 40):
        page.mouse.move(x, y)
        assert tip.inner_text() in names
    expect(page.locator("#tip")).to_contain_text("effect")
    # what is not in the circuit has a name where nothing is painted over it
    absent = {str(w) for w in circuit.graph.writers} - inside(page)
    found = set()
    for name in sorted(absent):
        box = page.locator(f"[data-node='{name}']").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        found.add(tip.inner_text())
    assert found & absent
    assert found <= absent | names


def test_hovering_names_components(watched: Watched, report: str) -> None:
    page = watched.open(report)
    page.locator("[data-node='m0']").hover()
    expect(page.locator("#tip")).to_contain_text("m0")
    expect(page.locator("#tip")).to_contain_text("name mover")


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
    # a prompt changes nothing here, but the attention of a component
    expect(page.locator("#pick-prompt")).to_be_hidden()
    page.locator("[data-node='a1.h2']").click()
    expect(page.locator("#pick-prompt")).to_be_visible()


def test_a_report_knows_what_a_threshold_costs(watched: Watched, report: str, sample: Sample) -> None:
    page = watched.open(report)
    circuit = sample.circuits[0].circuit
    exact = measured_document(sample.problem, Ranking.of(circuit), [EDGES], True)["points"][0]
    shown = page.locator("#metric").inner_text().replace("−", "-")
    assert float(shown) == pytest.approx(exact["metric"], rel=5e-3)
    slide(page, 900)
    expect(page.locator("#metric")).to_have_text(re.compile("≈"))


def test_everything_can_be_done_with_the_keyboard(watched: Watched, report: str) -> None:
    page = watched.open(report)
    page.keyboard.press("/")
    page.keyboard.type("mover")
    expect(page.locator(".node.hit")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.locator("#side h2")).to_have_text("m0")
    # the arrow keys go on from what was found
    first = page.evaluate("document.activeElement.dataset.node")
    assert first == "m0"
    page.keyboard.press("ArrowUp")
    second = page.evaluate("document.activeElement.dataset.node")
    assert second not in (None, first)
    page.keyboard.press("Enter")
    expect(page.locator("#side h2")).to_have_text(second)
    page.locator("#slider").focus()
    page.keyboard.press("Home")
    least = int(page.locator("#count").input_value())
    drawn(page, least)
    expect(page.locator("#said")).to_contain_text(f"{least} edge")
    assert page.locator("button:not([hidden])").evaluate_all(
        "(all) => all.every((b) => b.ariaLabel || b.textContent || b.dataset.node)"
    )


def test_the_address_brings_a_view_back(watched: Watched, report: str) -> None:
    page = watched.open(f"{report}#edges=8&node=m0&theme=dark&prompt=99&other=zz&circuit=-3")
    drawn(page, 8)
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
    page = watched.open(f"{server.address}#edges=8")
    drawn(page, 8)
    circuit = sample.circuits[0].circuit
    exact = measured_document(sample.problem, Ranking.of(circuit), [8], True)["points"][0]
    expect(page.locator("#metric")).not_to_have_text(re.compile("≈|…|–"))
    assert float(page.locator("#metric").inner_text().replace("−", "-")) == pytest.approx(exact["metric"], rel=5e-3)
    expect(page.locator("#pick-prompt")).to_be_visible()
    expect(page.locator("#prompt option")).to_have_count(4)


def test_a_running_search_grows_on_the_page(watched: Watched, server: Running, sample: Sample) -> None:
    page = watched.open(server.address)
    drawn(page, EDGES)
    whole = server.circuits[0]
    half = after_sliding(whole.circuit, 30)
    server.circuits[0] = type(whole)(whole.name, half, whole.labels)
    server.progress.update(version="2", running=True, done=3, total=4, words="3/4 edges")
    try:
        drawn(page, half.n_edges)
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


def test_the_map_orders_nodes_as_the_picture_does(watched: Watched, report: str, sample: Sample) -> None:
    page, circuit = watched.open(report), sample.circuits[0].circuit
    boxes = {
        name: (middle, -top)
        for name, middle, top in page.locator(".node").evaluate_all(
            "(all) => all.map((n) => [n.dataset.node, n.offsetLeft + n.offsetWidth / 2, n.offsetTop])"
        )
    }
    layout, nodes = Layout(circuit), [node for node in circuit.graph.writers if node.layer is not None]
    for axis in (0, 1):
        for one, other in combinations(nodes, 2):
            in_picture = layout.place(one)[axis] - layout.place(other)[axis]
            on_page = boxes[str(one)][axis] - boxes[str(other)][axis]
            if abs(in_picture) < 1e-9:
                assert abs(on_page) <= 1, (one, other)  # pixels are whole
            else:
                assert on_page * in_picture > 0, (one, other)


def test_parts_and_places_can_be_pointed_at_and_opened(watched: Watched, tmp_path: Path) -> None:
    graph = Graph.of(tiny("qwen2_moe").config, Scope.named("qkv, m0=expert, m1=neuron, positions=each"), ("0", "1", "2"))
    scores = torch.randn(graph.edges.shape, generator=torch.Generator().manual_seed(0))
    arc = [f"embed->m2@{place}" for place in ("2", "0", "1")]
    for rank, name in enumerate(arc):
        scores[graph.find(name)] = 9.0 - rank
        # what it writes there has to lead on
        scores[graph.find(f"m2->logits{name.removeprefix('embed->m2')}")] = 9.5
    circuit = select_edges(graph, scores, TopN(1000, "absolute")).prune()
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
