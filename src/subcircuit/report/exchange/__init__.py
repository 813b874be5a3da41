"""Export of circuits to other tools, and import from their files. Import never runs code, and limits memory use."""

from subcircuit.report.exchange.formats import FORMATS, READ, WRITTEN, Format, export_circuit, import_circuit
from subcircuit.report.exchange.networks import from_networkx, to_networkx
from subcircuit.report.exchange.target import Target

__all__ = [
    "FORMATS",
    "READ",
    "WRITTEN",
    "Format",
    "Target",
    "export_circuit",
    "from_networkx",
    "import_circuit",
    "to_networkx",
]
