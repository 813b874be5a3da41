"""Edits of a model by a circuit (remove a capability, or keep only the circuit), and their effects on other behaviour."""

from subcircuit.edit.checkpoint import CutModel, load_edited, write_checkpoint
from subcircuit.edit.effects import Change, EditEffects, Relearned, Side, Texts, effects, read_text, recovery, side_effects
from subcircuit.edit.parts import Probe, all_nodes, nodes_of
from subcircuit.edit.relearn import Relearning, Untouched, damaged_at_random, relearn, untouched
from subcircuit.edit.remove import EdgeEdit, Edit, Level, Means, NodeEdit, Removal, check_same_model, keep, remove
from subcircuit.edit.replacement import Fill, fill_named
from subcircuit.edit.search import OnPoint, RemovalSearch, RemovalStep, RemovedParts
from subcircuit.edit.weights import remove_nodes

__all__ = [
    "Change",
    "CutModel",
    "EdgeEdit",
    "Edit",
    "EditEffects",
    "Fill",
    "Level",
    "Means",
    "NodeEdit",
    "OnPoint",
    "Probe",
    "Relearned",
    "Relearning",
    "Removal",
    "RemovalSearch",
    "RemovalStep",
    "RemovedParts",
    "Side",
    "Texts",
    "Untouched",
    "all_nodes",
    "check_same_model",
    "damaged_at_random",
    "effects",
    "fill_named",
    "keep",
    "load_edited",
    "nodes_of",
    "read_text",
    "recovery",
    "relearn",
    "remove",
    "remove_nodes",
    "side_effects",
    "untouched",
    "write_checkpoint",
]
