"""The picture: what it shows, that nothing overlaps, that it is the same every time, and that hostile names are inert."""

import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from subcircuit.graph import MLP, Circuit, Embed, Graph, GraphShape, HeadInput, Logits, RouterInput, Scope
from subcircuit.report import draw_circuit, save_picture
from subcircuit.report.layout import BOX_HEIGHT, BOX_WIDTH, Layout
from subcircuit.report.picture import COLOURS
from subcircuit.report.routes import route
from tests.graph.strategies import circuits, record


def random_circuit(shape: GraphShape, n_edges: int, scope: Scope | None = None) -> Circuit:
    graph = Graph(shape, Scope() if scope is None else scope)
    generator = torch.Generator().manual_seed(n_edges)
    scores = torch.rand(graph.edges.shape, generator=generator).masked_fill(~graph.edges, torch.nan)
    least = scores.nan_to_num(0.0).flatten().topk(min(n_edges, graph.n_edges)).values[-1]
    return Circuit(graph, graph.edges & (scores >= least), scores, record())


SHAPES = {
    "two layers": GraphShape(2, 8, 8, mlps=False),
    "GPT-2": GraphShape(12, 12, 12),
    "SmolLM2": GraphShape(30, 9, 3),
    "parallel": GraphShape(6, 8, 8, parallel=True),
}


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.slow
@given(circuits())
@settings(max_examples=25, deadline=None)
def test_exactly_the_nodes_in_the_circuit_are_labelled_and_all_edges_drawn(circuit: Circuit) -> None:
    figure = draw_circuit(circuit)

    def drawn(node: object) -> str:
        """Neurons, experts and routers are drawn as their MLP."""
        return re.sub(r"\.n\d+|\.e\d+|\.shared|<router>", "", str(node))

    names = {drawn(writer) for writer in circuit.graph.writers} | {"logits"}
    ends = {str(w) for w in circuit.graph.writers if isinstance(w, Embed)} | {"logits"}
    labels = [
        word for text, word in zip(figure.axes[0].texts, words(figure), strict=True) if word in names and text.get_zorder() == 5
    ]
    assert sorted(labels) == sorted({drawn(node) for node in circuit.nodes} | ends)
    curves = next(c for c in figure.axes[0].collections if isinstance(c, PathCollection) and c.get_zorder() == 2)
    edges = {
        (drawn(e.writer), drawn(e.reader)): 1 if isinstance(e.reader, RouterInput) else len(circuit.graph.owners(e.reader))
        for e in circuit.edges
    }
    assert len(curves.get_paths()) == sum(max(1, ends_of) for ends_of in edges.values())


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("n_edges", [10, 300])
def test_boxes_keep_apart_and_words_stay_inside_the_figure(shape: GraphShape, n_edges: int) -> None:
    circuit = random_circuit(shape, n_edges)
    layout = Layout(circuit)
    for one, other in itertools.combinations(sorted(layout.labelled, key=str), 2):
        (x0, y0), (x1, y1) = layout.place(one), layout.place(other)
        assert abs(x0 - x1) > BOX_WIDTH * 1.1 or abs(y0 - y1) > BOX_HEIGHT * 1.1, f"{one} overlaps {other}"
    figure = draw_circuit(circuit)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    inside = figure.bbox
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1 for box in boxes)
    apart = [a for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
    assert not apart
    width, height = figure.get_size_inches()
    assert max(width, height) < 24


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_curves_begin_at_their_writer_and_end_at_their_reader(shape: GraphShape) -> None:
    layout = Layout(random_circuit(shape, 60))
    for edge in layout.circuit.edges:
        for index in layout.graph.owners(edge.reader) or (None,):
            node = Logits() if index is None else layout.graph.writers[index]
            path = route(layout, edge.writer, edge.reader, node)
            vertices = np.asarray(path.vertices)
            start, end = vertices[0], vertices[-1]
            assert abs(start[1] - layout.place(edge.writer)[1]) < BOX_HEIGHT
            assert abs(end[1] - layout.place(node)[1]) < BOX_HEIGHT
            if not isinstance(node, Logits):
                assert abs(end[0] - layout.place(node)[0]) <= BOX_WIDTH / 2 + 1e-6


def test_strong_edges_are_wide_and_on_top_and_coloured_by_reader() -> None:
    graph = Graph(GraphShape(2, 2, 2), Scope())
    effects = {"embed->a0.h0<q>": 0.1, "embed->a0.h0<k>": 0.4, "embed->m0": 0.9, "a0.h0->logits": 0.6}
    scores = torch.full(graph.edges.shape, torch.nan)
    for name, effect in effects.items():
        scores[graph.find(name)] = -effect
    circuit = Circuit(graph, Circuit.of_edges(graph, effects).kept, scores)
    curves = next(c for c in draw_circuit(circuit).axes[0].collections if isinstance(c, PathCollection) and c.get_zorder() == 2)
    widths = list(np.atleast_1d(curves.get_linewidth()))
    assert widths == sorted(widths)
    assert widths[-1] > 2 * widths[0]
    colours = [to_hex(colour).upper() for colour in np.asarray(curves.get_edgecolor())]
    assert colours == [COLOURS[kind].upper() for kind in ("q", "k", "logits", "mlp")]
    assert {type(reader) for reader in graph.readers} == {HeadInput, MLP, Logits}


def test_only_the_strongest_edges_of_a_huge_circuit_are_drawn_and_the_caption_says_so() -> None:
    figure = draw_circuit(random_circuit(SHAPES["GPT-2"], 500), most=100)
    curves = next(c for c in figure.axes[0].collections if isinstance(c, PathCollection) and c.get_zorder() == 2)
    assert len(curves.get_paths()) == 100
    assert any("the 100 strongest of 500 edges are drawn" in word for word in words(figure))


def test_equal_circuits_make_equal_files_and_the_global_style_is_left_alone(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    circuit = random_circuit(SHAPES["two layers"], 20)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": "another"}):
        first = [file.read_bytes() for file in save_picture(circuit, tmp_path / "a")]
    second = [file.read_bytes() for file in save_picture(circuit, tmp_path / "b")]
    assert first == second
    assert dict(mpl.rcParams) == before


def test_hostile_names_are_inert(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>\x1b[31m\u202e\u2028$\\frac{"
    found = record()
    hostile = found.model_copy(update={"task": found.task.model_copy(update={"name": name})})
    circuit = random_circuit(SHAPES["two layers"], 20)
    svg, _ = save_picture(Circuit(circuit.graph, circuit.kept, circuit.scores, hostile), tmp_path)
    text = svg.read_text(encoding="utf-8")
    assert "<script" not in text
    assert not {"\x1b", "\u202e", "\u2028"} & set(text)
    shown = "".join(ElementTree.parse(svg).getroot().itertext())
    assert "<script>alert(1)</script>\N{REPLACEMENT CHARACTER}" in shown


def test_words_are_text_in_the_svg(tmp_path: Path) -> None:
    circuit = random_circuit(SHAPES["two layers"], 20)
    svg, png = save_picture(circuit, tmp_path)
    shown = {element.text for element in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {str(node) for node in circuit.nodes} <= shown
    assert png.read_bytes().startswith(b"\x89PNG")
