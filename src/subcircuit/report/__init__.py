"""Presentation of circuits: pictures, summaries, and the result directory of a run."""

from subcircuit.report.attention_figure import draw_attention
from subcircuit.report.exchange import export_circuit, import_circuit, to_networkx
from subcircuit.report.folder import new_directory, write_run
from subcircuit.report.picture import draw_circuit, save_picture
from subcircuit.report.refine_figure import draw_path, write_path
from subcircuit.report.removal import EditReport, HeldOut, list_of, write_kept, write_removal
from subcircuit.report.removal_figure import draw_removal
from subcircuit.report.summary import Summary
from subcircuit.report.sweep import Sweep, save_sweep, write_sweep
from subcircuit.report.sweep_figure import draw_sweep
from subcircuit.report.validation import Validations, save_validations, write_validations
from subcircuit.report.validation_figure import draw_roc, draw_table

__all__ = [
    "EditReport",
    "HeldOut",
    "Summary",
    "Sweep",
    "Validations",
    "draw_attention",
    "draw_circuit",
    "draw_path",
    "draw_removal",
    "draw_roc",
    "draw_sweep",
    "draw_table",
    "export_circuit",
    "import_circuit",
    "list_of",
    "new_directory",
    "save_picture",
    "save_sweep",
    "save_validations",
    "to_networkx",
    "write_kept",
    "write_path",
    "write_removal",
    "write_run",
    "write_sweep",
    "write_validations",
]
