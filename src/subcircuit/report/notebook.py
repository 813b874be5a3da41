"""Circuits and results in notebooks: a static picture and a small table.

The picture is an image of its own (``data:``), in which no script runs and whose names cannot clash with those of other cells.
"""

import base64
import io
from collections.abc import Iterable
from html import escape

import matplotlib as mpl

from subcircuit.graph import Circuit
from subcircuit.report.picture import draw_circuit
from subcircuit.report.style import STYLE
from subcircuit.report.summary import Summary
from subcircuit.search import Discovery
from subcircuit.text import inert

_MOST = 500  # edges drawn: a notebook is saved with its pictures


def circuit_html(circuit: Circuit) -> str:
    """A circuit's picture over its summary."""
    summary = Summary.of(circuit)
    return f"<div>{_picture(circuit, summary.title)}{_table(summary.rows)}</div>"


def discovery_html(discovery: Discovery) -> str:
    """A search's result, with its measurements."""
    summary = Summary.of(discovery.circuit)
    numbers = {name: getattr(discovery, name) for name in ("metric_model", "metric_circuit", "metric_corrupted", "kl_circuit")}
    measured = ((name.replace("_", " "), f"{number:.4g}") for name, number in numbers.items())
    return f"<div>{_picture(discovery.circuit, summary.title)}{_table((*summary.rows, *measured))}</div>"


def _picture(circuit: Circuit, title: str) -> str:
    if not circuit.n_edges:
        return ""
    image = io.BytesIO()
    with mpl.rc_context(STYLE):
        draw_circuit(circuit, most=_MOST).savefig(image, format="svg", metadata={"Date": None, "Creator": None})
    data = base64.b64encode(image.getvalue()).decode("ascii")
    return f'<img alt="{escape(inert(title))}" style="max-width:100%;background:white" src="data:image/svg+xml;base64,{data}">'


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{escape(inert(name))}</th><td>{escape(inert(value))}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"
