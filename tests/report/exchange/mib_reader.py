"""How EAP-IG and MIB read their files, written from the description of the formats alone and without our classes: the oracle."""

import json
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor


class TheirGraph(NamedTuple):
    """Names in the order of rows and columns, and the matrices; ``real`` marks the cells that are edges."""

    writers: list[str]
    readers: list[str]
    real: Tensor
    scores: Tensor
    in_graph: Tensor
    nodes_in_graph: dict[str, bool]
    d_model: int


def skeleton(cfg: dict[str, int | bool]) -> tuple[list[str], list[str], Tensor]:
    layers, heads = int(cfg["n_layers"]), int(cfg["n_heads"])
    writers, readers, when_written, when_read = ["input"], [], [0], []
    for layer in range(layers):
        attention, mlp = (2 * layer + 1, 2 * layer + (1 if cfg["parallel_attn_mlp"] else 2))
        writers += [f"a{layer}.h{head}" for head in range(heads)] + [f"m{layer}"]
        when_written += [2 * layer + 2 if cfg["parallel_attn_mlp"] else attention + 0.5] * heads + [2 * layer + 2]
        readers += [f"a{layer}.h{head}<{kind}>" for kind in "qkv" for head in range(heads)] + [f"m{layer}"]
        when_read += [attention] * 3 * heads + [mlp]
    readers.append("logits")
    when_read.append(2 * layers + 1)
    assert (len(writers), len(readers)) == (1 + layers * (heads + 1), layers * (3 * heads + 1) + 1)
    real = torch.tensor([[w < r for r in when_read] for w in when_written])
    return writers, readers, real


def read_json(path: Path) -> TheirGraph:
    content = json.loads(path.read_text())
    writers, readers, real = skeleton(content["cfg"])
    scores, in_graph = torch.zeros(real.shape), torch.zeros(real.shape, dtype=torch.bool)
    row, column = ({name: i for i, name in enumerate(names)} for names in (writers, readers))
    for name, edge in content["edges"].items():
        writer, reader = name.split("->")
        assert real[row[writer], column[reader]], name
        scores[row[writer], column[reader]] = edge["score"]
        in_graph[row[writer], column[reader]] = edge["in_graph"]
    assert len(content["edges"]) == int(real.sum())
    assert content["nodes"].keys() == {*writers, "logits"}
    nodes = {name: node["in_graph"] for name, node in content["nodes"].items()}
    return TheirGraph(writers, readers, real, scores, in_graph, nodes, content["cfg"]["d_model"])


def read_pt(path: Path) -> TheirGraph:
    content = torch.load(path, weights_only=True)
    writers, readers, real = skeleton(content["cfg"])
    assert (content["src_nodes"], content["dst_nodes"]) == (writers, readers)
    shapes = [content[key].shape for key in ("edges_scores", "edges_in_graph")]
    assert shapes == [real.shape, real.shape]
    assert (content["edges_scores"].dtype, content["edges_in_graph"].dtype) == (torch.float32, torch.bool)
    nodes = dict(zip(writers, content["nodes_in_graph"].tolist(), strict=True))
    return TheirGraph(
        writers, readers, real, content["edges_scores"], content["edges_in_graph"], nodes, content["cfg"]["d_model"]
    )


def edges_of(theirs: TheirGraph) -> dict[str, float]:
    """Kept edges by our names, with scores."""
    return {
        f"{'embed' if w == 'input' else w}->{r}": float(theirs.scores[i, j])
        for (i, w), (j, r) in product(enumerate(theirs.writers), enumerate(theirs.readers))
        if theirs.in_graph[i, j]
    }
