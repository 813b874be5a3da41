"""Running circuits: the masked forward pass, and the exact engine, which computes the effect of further cuts."""

from subcircuit.engine.ablation import (
    ABLATIONS,
    OPTIMAL,
    Ablation,
    Mean,
    MeanByPosition,
    Optimal,
    Resample,
    Zero,
    ablated_by_batch,
    ablation_named,
    check_ablation,
)
from subcircuit.engine.forward import last_stream, last_stream_of_nodes, run_circuit
from subcircuit.engine.plain_run import writer_values

__all__ = [
    "ABLATIONS",
    "OPTIMAL",
    "Ablation",
    "Mean",
    "MeanByPosition",
    "Optimal",
    "Resample",
    "Zero",
    "ablated_by_batch",
    "ablation_named",
    "check_ablation",
    "last_stream",
    "last_stream_of_nodes",
    "run_circuit",
    "writer_values",
]
