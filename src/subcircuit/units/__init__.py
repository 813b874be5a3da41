"""Units: one layer's attention or MLP at one level, with the names of its nodes. Nothing here knows a graph."""

from subcircuit.units.attention import AttentionUnit
from subcircuit.units.experts import ExpertsUnit
from subcircuit.units.mlp import FeedForwardUnit, MLPUnit, NeuronsUnit
from subcircuit.units.rows import Reach, Rows, RowSet
from subcircuit.units.unit import (
    CleanUnit,
    Inputs,
    LogitsUnit,
    Parts,
    PointwiseState,
    Reaches,
    Since,
    Stream,
    Unit,
    UnitRun,
    UnitState,
    Writes,
)

__all__ = [
    "AttentionUnit",
    "CleanUnit",
    "ExpertsUnit",
    "FeedForwardUnit",
    "Inputs",
    "LogitsUnit",
    "MLPUnit",
    "NeuronsUnit",
    "Parts",
    "PointwiseState",
    "Reach",
    "Reaches",
    "RowSet",
    "Rows",
    "Since",
    "Stream",
    "Unit",
    "UnitRun",
    "UnitState",
    "Writes",
]
