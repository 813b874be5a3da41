"""The page for exploring a circuit: its data, and the page as a single file."""

from subcircuit.report.page.document import Shown, check_one_graph, circuit_document, graph_document, read_labels
from subcircuit.report.page.html import NOTHING_ELSE, report_html, script, served_html, static
from subcircuit.report.page.prompts import STEPS_PER_PROMPT, prompts_document
from subcircuit.report.page.report import MOST_EDGES, page_document, report_document, write_report
from subcircuit.report.page.slider import POINTS, PrefixRuns, Ranking, ladder, measured_document, read_path, sizes

__all__ = [
    "MOST_EDGES",
    "NOTHING_ELSE",
    "POINTS",
    "STEPS_PER_PROMPT",
    "PrefixRuns",
    "Ranking",
    "Shown",
    "check_one_graph",
    "circuit_document",
    "graph_document",
    "ladder",
    "measured_document",
    "page_document",
    "prompts_document",
    "read_labels",
    "read_path",
    "report_document",
    "report_html",
    "script",
    "served_html",
    "sizes",
    "static",
    "write_report",
]
