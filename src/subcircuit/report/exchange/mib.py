"""What the two formats of EAP-IG and MIB share: which circuits they can hold, and their order of nodes.

Sources are the input, then per layer the heads and the MLP: 1 + L (H + 1). Destinations are per layer the queries of all
heads, their keys, their values and the MLP, and last the logits: L (3 H + 1) + 1. That is the order of our graphs at scope
``qkv``; only the embedding has another name there, ``input``. Keys and values are counted per query head.
"""

from pathlib import Path
from typing import Any

from subcircuit.errors import CircuitFileError, GraphError
from subcircuit.graph import Circuit, Embed, Graph, GraphShape, Logits, Scope
from subcircuit.report.exchange.target import Target

# more than any model has that the benchmark or its tools can run; a file must not make us build a larger matrix
MOST_SOURCES = 6000


def check_expressible(circuit: Circuit, what: str) -> None:
    """Refuse circuits that the format cannot hold.

    Raises:
        GraphError: another scope than ``qkv`` with keys and values per query head, or a model without MLPs.
    """
    graph = circuit.graph
    if graph.scope != Scope():
        raise GraphError(
            f"{what} holds circuits of heads with queries, keys and values per query head, and this one is at {graph.scope}: "
            "search with --scope qkv and without --kv and --split-embeddings, or export to networkx, graphml or csv"
        )
    if not graph.shape.mlps:
        raise GraphError(f"{what} counts an MLP in every layer, and this model has none: export to networkx, graphml or csv")


def sources(graph: Graph) -> list[str]:
    """Names of the writers, as the format calls them."""
    return [theirs(str(writer)) for writer in graph.writers]


def destinations(graph: Graph) -> list[str]:
    """Names of the readers."""
    return [str(reader) for reader in graph.readers]


def theirs(name: str) -> str:
    """Our name of a writer as the format has it."""
    return "input" if name == str(Embed()) else name


def ours(name: str) -> str:
    """The format's name of a writer as we have it; ``embed`` is not a name there."""
    return str(Embed()) if name == "input" else f"input (not {name})" if name == str(Embed()) else name


def config(circuit: Circuit, d_model: int) -> dict[str, Any]:
    """The ``cfg`` of a file."""
    shape = circuit.graph.shape
    return {
        "n_layers": shape.n_layers,
        "n_heads": shape.n_heads,
        "parallel_attn_mlp": shape.parallel,
        "d_model": d_model,
    }


def width(circuit: Circuit, d_model: int | None) -> int:
    """The width of the model: as given, else as recorded.

    Raises:
        GraphError: neither is known.
    """
    known = d_model or (circuit.record.model.d_model if circuit.record else None)
    if known is None:
        raise GraphError("the format states the width of the model, which this circuit does not say: give --model (d_model=…)")
    return known


def nodes_kept(circuit: Circuit) -> set[str]:
    """Names of the nodes that a kept edge touches; the input always counts, as the tools expect."""
    return {"input", *(theirs(str(node)) for node in circuit.nodes)} | {str(Logits())}


def graph_of_file(file: Path, cfg: object, target: Target | None) -> Graph:
    """The graph that a file's ``cfg`` describes, which must be the model's if there is one.

    Raises:
        CircuitFileError: the sizes are missing or absurd.
        GraphError: they are those of another model.
    """
    layers, heads = (_size(file, cfg, name) for name in ("n_layers", "n_heads"))
    parallel = isinstance(cfg, dict) and bool(cfg.get("parallel_attn_mlp", False))
    if layers * (heads + 1) > MOST_SOURCES:
        raise CircuitFileError(f"{file}: no model has {layers:,} layers of {heads:,} heads")
    if target is None:
        return Graph(GraphShape(layers, heads, heads, parallel=parallel), Scope())
    graph = target.graph(Scope())
    shape = graph.shape
    if (layers, heads, parallel, True) != (shape.n_layers, shape.n_heads, shape.parallel, shape.mlps):
        raise GraphError(
            f"{file} is a circuit of a model of {_described(layers, heads, parallel)}, and this model has "
            f"{_described(shape.n_layers, shape.n_heads, shape.parallel)}{'' if shape.mlps else ' and no MLPs'}"
        )
    return graph


def _size(file: Path, cfg: object, name: str) -> int:
    value = cfg.get(name) if isinstance(cfg, dict) else None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_SOURCES:
        raise CircuitFileError(f"{file}: cfg.{name} is not a number of {name.removeprefix('n_')}")
    return value


def _described(layers: int, heads: int, parallel: bool) -> str:
    return f"{layers} layers of {heads} heads{', attention and MLP side by side' if parallel else ''}"
