"""The computational graph: nodes, edges, scopes and circuits. Topology only; nothing here runs a model."""

from subcircuit.graph.circuit import Circuit, Comparison
from subcircuit.graph.graph import Graph, GraphShape, Unit
from subcircuit.graph.nodes import (
    MLP,
    Attention,
    Edge,
    Embed,
    Head,
    HeadInput,
    HeadPart,
    Logits,
    Reader,
    Writer,
    parse_edge,
    parse_reader,
    parse_writer,
)
from subcircuit.graph.record import MethodRecord, ModelRecord, Record, TaskRecord
from subcircuit.graph.scope import KEY_VALUES, LEVELS, Scope
from subcircuit.graph.select import By, Greedy, Selection, Threshold, TopN, select_edges

__all__ = [
    "KEY_VALUES",
    "LEVELS",
    "MLP",
    "Attention",
    "By",
    "Circuit",
    "Comparison",
    "Edge",
    "Embed",
    "Graph",
    "GraphShape",
    "Greedy",
    "Head",
    "HeadInput",
    "HeadPart",
    "Logits",
    "MethodRecord",
    "ModelRecord",
    "Reader",
    "Record",
    "Scope",
    "Selection",
    "TaskRecord",
    "Threshold",
    "TopN",
    "Unit",
    "Writer",
    "parse_edge",
    "parse_reader",
    "parse_writer",
    "select_edges",
]
