"""What a person sees of a circuit: pictures, summaries, and the directory that a run leaves."""

from subcircuit.report.folder import new_directory, write_run
from subcircuit.report.picture import draw_circuit, save_picture
from subcircuit.report.summary import Summary

__all__ = ["Summary", "draw_circuit", "new_directory", "save_picture", "write_run"]
