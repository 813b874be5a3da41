"""Units: one layer's attention or MLP at one level, with the names of its nodes. Nothing here knows a graph."""

from subcircuit.units.attention import AttentionUnit
from subcircuit.units.experts import ExpertsUnit
from subcircuit.units.mlp import MLPUnit
from subcircuit.units.neurons import NeuronsUnit
from subcircuit.units.rows import Places, Reach, Rows
from subcircuit.units.state import CleanUnit, Inputs, Reaches, Since, UnitState, Writes
from subcircuit.units.stream import Stream
from subcircuit.units.unit import LogitsUnit, Parts, PointwiseState, Unit, UnitRun

__all__ = [
    "AttentionUnit",
    "CleanUnit",
    "ExpertsUnit",
    "Inputs",
    "LogitsUnit",
    "MLPUnit",
    "NeuronsUnit",
    "Parts",
    "Places",
    "PointwiseState",
    "Reach",
    "Reaches",
    "Rows",
    "Since",
    "Stream",
    "Unit",
    "UnitRun",
    "UnitState",
    "Writes",
]
