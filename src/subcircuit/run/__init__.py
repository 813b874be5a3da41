"""Running circuits: the masked forward pass, and the exact engine that knows what a few more cuts would change."""

from subcircuit.run.ablation import (
    ABLATIONS,
    Ablation,
    Mean,
    MeanByPosition,
    Resample,
    Zero,
    ablated_by_batch,
    ablated_values,
    ablation_named,
    name_of,
)
from subcircuit.run.forward import last_stream, run_circuit
from subcircuit.run.values import writer_values

__all__ = [
    "ABLATIONS",
    "Ablation",
    "Mean",
    "MeanByPosition",
    "Resample",
    "Zero",
    "ablated_by_batch",
    "ablated_values",
    "ablation_named",
    "last_stream",
    "name_of",
    "run_circuit",
    "writer_values",
]
