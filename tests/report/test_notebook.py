"""What notebooks show: a picture and a table, inert whatever names are in them."""

import base64
from dataclasses import replace
from importlib import import_module
from xml.etree import ElementTree

from subcircuit.display import PAINTERS
from subcircuit.graph import Circuit, Graph, GraphShape, Scope
from subcircuit.search import Discovery
from tests.graph.strategies import record


def shown(name: str) -> Circuit:
    told = record()
    hostile = told.model_copy(update={"task": told.task.model_copy(update={"name": name})})
    return replace(Circuit.of_edges(Graph(GraphShape(2, 2, 1), Scope()), ["embed->a0.h1<v>", "a0.h1->logits"]), record=hostile)


def test_circuits_and_results_have_a_picture_a_table_and_text() -> None:
    circuit = shown("ioi")
    result = Discovery(circuit, "kl_divergence", 0.0, 0.25, 4.5, 0.25, None, None, 3, 0, {}, 1.0, 0.5)
    for value in (circuit, result):
        bundle = value._repr_mimebundle_()
        assert bundle == {"text/plain": repr(value), "text/html": value._repr_html_()}
        root = ElementTree.fromstring(bundle["text/html"].replace('">', '"/>', 1).replace("<div/>", "<div>"))
        image = next(root.iter("img")).attrib["src"]
        svg = ElementTree.fromstring(base64.b64decode(image.removeprefix("data:image/svg+xml;base64,")))
        assert svg.tag.endswith("svg")
        assert "edges kept" in [cell.text for cell in root.iter("th")]


def test_names_from_elsewhere_are_inert() -> None:
    html = shown('<script>alert(1)</script>" onload="x\u2028\u202e')._repr_html_()
    assert "<script" not in html
    assert '" onload="' not in html
    assert not {"\u2028", "\u202e"} & set(html)


def test_every_painter_is_there() -> None:
    for painter in PAINTERS.values():
        module, _, name = painter.partition(":")
        assert callable(getattr(import_module(module), name))
