"""How values look in a notebook: which function of ``report/`` draws them, by name.

Circuits must not import what draws them. They ask here, where painters stand as text, and one is imported when a notebook
first shows a value: importing a circuit's module registers nothing and loads no matplotlib.
"""

from importlib import import_module
from typing import Any

PAINTERS = {"Circuit": "subcircuit.report.notebook:circuit_html", "Discovery": "subcircuit.report.notebook:discovery_html"}


def html_of(value: object) -> str:
    """The value as HTML that stands alone: static, everything in it escaped."""
    module, _, name = PAINTERS[type(value).__name__].partition(":")
    return getattr(import_module(module), name)(value)


def bundle_of(value: object) -> dict[str, Any]:
    """The value for front ends with HTML and for those with text alone."""
    return {"text/plain": repr(value), "text/html": html_of(value)}
