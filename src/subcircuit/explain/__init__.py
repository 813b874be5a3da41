"""Explanation of each component of a circuit: attention by role, scores of known mechanisms, output tokens, and a label."""

from subcircuit.explain.explain import explain_circuit
from subcircuit.explain.explanation import (
    EXPLANATION_FILE,
    Component,
    Explanation,
    HeadEvidence,
    NeuronEvidence,
    Route,
    TopTokens,
    largest,
)
from subcircuit.explain.labels import Thresholds
from subcircuit.explain.observe import Observation, observe

__all__ = [
    "EXPLANATION_FILE",
    "Component",
    "Explanation",
    "HeadEvidence",
    "NeuronEvidence",
    "Observation",
    "Route",
    "Thresholds",
    "TopTokens",
    "explain_circuit",
    "largest",
    "observe",
]
