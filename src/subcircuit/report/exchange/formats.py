"""Export and import of circuits: one table of formats."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from subcircuit.entry import entry
from subcircuit.errors import CircuitFileError, UnknownNameError
from subcircuit.graph import Circuit, Scope
from subcircuit.io import read_json
from subcircuit.model import Transformer
from subcircuit.report.exchange.acdc_pickle import read_acdc_pickle
from subcircuit.report.exchange.attribution_graph import write_attribution_graph
from subcircuit.report.exchange.csv_edges import read_edges_csv, write_edges_csv
from subcircuit.report.exchange.edge_pruning import read_edge_pruning, write_edge_pruning
from subcircuit.report.exchange.mib import read_mib_json, read_mib_pt, write_mib_json, write_mib_pt
from subcircuit.report.exchange.networks import read_graphml, read_networkx, write_dot, write_graphml, write_networkx
from subcircuit.report.exchange.target import Target
from subcircuit.report.folder import write_file


@dataclass(frozen=True)
class Format:
    """A format of exchange.

    Args:
        name: its name for `export_circuit`, `import_circuit` and the command line.
        suffix: suffix of its files.
        description: one line.
        write: writes a circuit to a path; None for formats that are only read.
        read: reads a circuit for a model; None for formats that cannot be imported.
        width: its files state the width of the model.
        scores: its files contain the scores of edges.
    """

    name: str
    suffix: str
    description: str
    write: Callable[..., None] | None
    read: Callable[[Path, Target], Circuit] | None
    width: bool = False
    scores: bool = True


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format("mib-json", ".mib.json", "EAP-IG and MIB, by name", write_mib_json, read_mib_json, width=True),
        Format("mib-pt", ".mib.pt", "EAP-IG and MIB, as matrices", write_mib_pt, read_mib_pt, width=True),
        Format(
            "edge-pruning", ".edge-pruning.json", "Edge-Pruning: kept edges", write_edge_pruning, read_edge_pruning, scores=False
        ),
        Format("attribution-graph", ".attribution-graph.json", "circuit-tracer, Neuronpedia", write_attribution_graph, None),
        Format("networkx", ".networkx.json", "node-link JSON of networkx", write_networkx, read_networkx),
        Format("graphml", ".graphml", "Gephi, Cytoscape, yEd, igraph", write_graphml, read_graphml),
        Format("dot", ".dot", "graphviz", write_dot, None),
        Format("csv", ".csv", "a table of edges and scores", write_edges_csv, read_edges_csv),
        Format("acdc", ".pkl", "pickles of the ACDC authors' program", None, read_acdc_pickle),
    )
}
WRITTEN = tuple(name for name, entry in FORMATS.items() if entry.write is not None)
READ = tuple(name for name, entry in FORMATS.items() if entry.read is not None)


def export_circuit(circuit: Circuit, path: str | Path, format: str, *, d_model: int | None = None) -> Path:
    """Write a circuit for another tool.

    Args:
        path: a new file; it appears complete or not at all.
        format: one of ``WRITTEN``.
        d_model: the width of the model for MIB's formats, if the circuit does not record it.

    Raises:
        UnknownNameError: there is no such format.
        GraphError: the format cannot hold a circuit of this scope.
        OutputError: the file exists, or cannot be written.

    Examples:
        >>> export_circuit(circuit, "ioi.graphml", "graphml")  # doctest: +SKIP
    """
    entry = FORMATS.get(format)
    if entry is None or entry.write is None:
        raise UnknownNameError("format", format, WRITTEN)
    write = entry.write
    return write_file(Path(path), lambda file: write(circuit, file, d_model) if entry.width else write(circuit, file))


@entry
def import_circuit(path: str | Path, model: Transformer, *, scope: Scope | None = None, format: str | None = None) -> Circuit:
    """Read a circuit that another tool wrote.

    Args:
        model: the model of the circuit; names that its graph does not have are an error.
        scope: None takes the file's scope, or ``qkv`` for formats without a scope.
        format: one of ``READ``; None recognises it by name and content.

    Raises:
        UnknownNameError: there is no such format.
        CircuitFileError: a file that is damaged, hostile, or not of its format.
        GraphError: a circuit of another model, or at another scope.

    Examples:
        >>> import_circuit("ioi-eap-ig.json", model)  # doctest: +SKIP
    """
    file = Path(path)
    check_read(format)
    read = FORMATS[format or guess_format(file)].read
    if read is None:
        raise CircuitFileError(f"{file} is in a format for display and cannot be imported; these formats can: {', '.join(READ)}")
    return read(file, Target(model.config, scope))


def check_read(format: str | None) -> None:
    """Refuse a format that cannot be imported; None is recognised from the file.

    Raises:
        UnknownNameError: there is no such format.
    """
    if format is not None and format not in READ:
        raise UnknownNameError(
            "format", format, READ, "The other formats are for display and cannot be imported." if format in WRITTEN else ""
        )


def guess_format(file: Path) -> str:
    """The format of a file, by its suffix, and for JSON by its content.

    Raises:
        CircuitFileError: the format is not recognised.
    """
    ends = {".pt": "mib-pt", ".csv": "csv", ".graphml": "graphml", ".xml": "graphml", ".pkl": "acdc", ".pickle": "acdc"}
    ends |= {".dot": "dot", ".gv": "dot"}
    if file.suffix.lower() in ends:
        return ends[file.suffix.lower()]
    content = read_json(file)
    if isinstance(content, list):
        return "edge-pruning"
    keys = set(content) if isinstance(content, dict) else set()
    for name, needed in (
        ("attribution-graph", {"metadata", "links"}),
        ("mib-json", {"cfg", "edges"}),
        ("networkx", {"nodes", "edges"}),
    ):
        if needed <= keys:
            return name
    if {"format", "graph", "edges"} <= keys:
        raise CircuitFileError(f"{file} is a circuit of Subcircuit and needs no import: see `subcircuit show`")
    raise CircuitFileError(f"{file}: the format is not recognised: give --format, one of {', '.join(READ)}")
