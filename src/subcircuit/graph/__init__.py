"""The computational graph: nodes, edges, scopes and circuits. Topology only; nothing here runs a model."""

from subcircuit.graph.circuit import Circuit, Comparison
from subcircuit.graph.graph import Graph
from subcircuit.graph.levels import coarsen, resolve
from subcircuit.graph.record import MethodRecord, ModelRecord, Numbers, PartRecord, Record, SplitRecord, SplitSettings, TaskRecord
from subcircuit.graph.refine_path import PATH_FILE, Action, Point, RefinePath, Standing, load_path, save_path
from subcircuit.graph.scope import KEY_VALUES, LEVELS, Level, Scope
from subcircuit.graph.scope_text import parse_scope
from subcircuit.graph.select import By, Greedy, Selection, Threshold, TopN, select_edges
from subcircuit.graph.shape import GraphShape
from subcircuit.units.nodes import (
    MLP,
    Attention,
    Edge,
    Embed,
    Expert,
    Head,
    HeadInput,
    HeadPart,
    Logits,
    Neuron,
    Reader,
    RouterInput,
    Writer,
    parse_edge,
    parse_reader,
    parse_writer,
)

__all__ = [
    "KEY_VALUES",
    "LEVELS",
    "MLP",
    "PATH_FILE",
    "Action",
    "Attention",
    "By",
    "Circuit",
    "Comparison",
    "Edge",
    "Embed",
    "Expert",
    "Graph",
    "GraphShape",
    "Greedy",
    "Head",
    "HeadInput",
    "HeadPart",
    "Level",
    "Logits",
    "MethodRecord",
    "ModelRecord",
    "Neuron",
    "Numbers",
    "PartRecord",
    "Point",
    "Reader",
    "Record",
    "RefinePath",
    "RouterInput",
    "Scope",
    "Selection",
    "SplitRecord",
    "SplitSettings",
    "Standing",
    "TaskRecord",
    "Threshold",
    "TopN",
    "Writer",
    "coarsen",
    "load_path",
    "parse_edge",
    "parse_reader",
    "parse_scope",
    "parse_writer",
    "resolve",
    "save_path",
    "select_edges",
]
