"""Attribution-graph JSON, as circuit-tracer and Neuronpedia read it: nodes in layers and columns, weighted links.

Heads and MLPs are nodes without a feature, named in ``clerp``. A column is a position of the prompt; nodes of a circuit that
has no positions are in one column, "all positions". Links into a head's query, key and value inputs are summed, because the
format has heads and not their inputs. The format is for display and cannot be imported.
"""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from subcircuit.graph import Circuit, Node
from subcircuit.report.summary import Summary
from subcircuit.text import inert

_ANYWHERE = "all positions"
_TYPES = {"embed": "embedding", "attention": "attention head", "mlp": "mlp", "logits": "logit"}


def write_attribution_graph(circuit: Circuit, path: Path) -> None:
    """Write the circuit for a viewer of attribution graphs."""
    path.write_text(json.dumps(attribution_graph(circuit), indent=1), encoding="utf-8")


def attribution_graph(circuit: Circuit) -> dict[str, Any]:
    """The circuit as such a graph. Weights are scores if every kept edge has one, and 1 otherwise."""
    columns = _columns(circuit)
    nodes = [_node(circuit, node, columns) for node in circuit.nodes]
    links = [{"source": source, "target": target, "weight": weight} for (source, target), weight in _links(circuit).items()]
    summary = Summary.of(circuit)
    weights = (summary.scores or "scores") if _scored(circuit) else "1 for every kept edge"
    metadata = {
        "slug": inert("-".join(part for part in (summary.task, summary.model, "circuit") if part)),
        "scan": inert(summary.model or "unknown"),
        "transcoder_list": [],
        "prompt_tokens": list(columns),
        "prompt": inert(summary.task or ""),
        "node_threshold": None,
        "schema_version": 1,
        "info": {"title": inert(summary.title), "weights": weights},
    }
    parameters = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    return {"metadata": metadata, "qParams": parameters, "nodes": nodes, "links": links}


def _columns(circuit: Circuit) -> dict[str, int]:
    """Columns by label: positions in order, or one for everything."""
    labels = [_position(str(node)) for node in circuit.nodes]
    ordered = sorted(set(labels), key=lambda label: (not label.isdecimal(), int(label) if label.isdecimal() else 0, label))
    return {label: index for index, label in enumerate(ordered or [_ANYWHERE])}


def _position(name: str) -> str:
    return name.partition("@")[2] or _ANYWHERE


def _node(circuit: Circuit, node: Node, columns: dict[str, int]) -> dict[str, Any]:
    name = str(node)
    layer = {"embed": "E", "logits": str(circuit.graph.shape.n_layers + 1)}.get(node.kind, str(node.layer))
    column = columns[_position(name)]
    return {
        "node_id": name,
        "feature": None,
        "layer": layer,
        "ctx_idx": column,
        "feature_type": _TYPES[node.kind],
        "token_prob": 0.0,
        "is_target_logit": node.kind == "logits",
        "run_idx": 0,
        "reverse_ctx_idx": len(columns) - 1 - column,
        "jsNodeId": name,
        "clerp": name,
        "influence": None,
        "activation": None,
    }


def _links(circuit: Circuit) -> dict[tuple[str, str], float]:
    graph, scored = circuit.graph, _scored(circuit)
    weights: defaultdict[tuple[str, str], float] = defaultdict(float)
    for edge in circuit.edges:
        row, column = graph.find(edge)
        weight = float(circuit.scores[row, column]) if scored and circuit.scores is not None else 1.0
        for node in graph.nodes_of(edge.reader):
            weights[str(edge.writer), str(node)] += weight
    return weights


def _scored(circuit: Circuit) -> bool:
    return circuit.scores is not None and all(math.isfinite(score) for score in circuit.scores[circuit.kept].tolist())
