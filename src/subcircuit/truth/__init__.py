"""Ground truth for searches: models with known circuits, and published circuits of trained models.

case("tracr-reverse", Zero())            a compiled program, with its task and its true edges
case("induction", Resample())            weights set by hand
case("trained-ioi", Resample())          a small trained model, every edge of which was cut
published_circuit("ioi").circuit(graph)  the published edges of a trained model
"""

from subcircuit.truth.case import Case
from subcircuit.truth.cases import CASES, CaseListing, case, known_cases
from subcircuit.truth.derive import derive
from subcircuit.truth.planted import PLANTED, Planted, planted_case
from subcircuit.truth.published import (
    EdgeRule,
    PublishedCircuit,
    Setting,
    published_case,
    published_circuit,
    published_circuits,
    published_names,
    with_whole_inputs,
)
from subcircuit.truth.tracr import PROGRAMS, Compiled, Program, compile_program, tracr_case, tracr_task
from subcircuit.truth.trained import TRAINED, Trained, trained_case

__all__ = [
    "CASES",
    "PLANTED",
    "PROGRAMS",
    "TRAINED",
    "Case",
    "CaseListing",
    "Compiled",
    "EdgeRule",
    "Planted",
    "Program",
    "PublishedCircuit",
    "Setting",
    "Trained",
    "case",
    "compile_program",
    "derive",
    "known_cases",
    "planted_case",
    "published_case",
    "published_circuit",
    "published_circuits",
    "published_names",
    "tracr_case",
    "tracr_task",
    "trained_case",
    "with_whole_inputs",
]
