"""One search by several processes, on this machine or on many, to the bits of one process."""

from subcircuit.workers.crew import Crew, together
from subcircuit.workers.table import Table

__all__ = ["Crew", "Table", "together"]
