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
    result = Discovery(
        circuit,
        seconds=1.0,
        forward_seconds=0.5,
        metric="kl_divergence",
        metric_model=0.0,
        metric_circuit=0.25,
        metric_corrupted=4.5,
        kl_circuit=0.25,
        logit_difference_model=None,
        logit_difference_circuit=None,
    )
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
