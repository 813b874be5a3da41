"""What a person sees of a circuit: pictures, summaries, and the directory that a run leaves."""

from subcircuit.report.folder import new_directory, write_run
from subcircuit.report.picture import draw_circuit, save_picture
from subcircuit.report.summary import Summary
from subcircuit.report.sweep import Sweep, write_sweep
from subcircuit.report.sweep_figure import draw_sweep

__all__ = ["Summary", "Sweep", "draw_circuit", "draw_sweep", "new_directory", "save_picture", "write_run", "write_sweep"]
