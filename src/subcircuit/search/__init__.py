"""Search methods: functions from a model, its graph and a behaviour to a circuit or to scores of edges."""

from subcircuit.search.acdc import Acdc, acdc
from subcircuit.search.behaviour import Behaviour
from subcircuit.search.clean_corrupted import CleanCorrupted, clean_corrupted
from subcircuit.search.discover import circuit_of, discover
from subcircuit.search.eap import Eap, eap
from subcircuit.search.eap_ig_inputs import EapIgInputs, eap_ig_inputs
from subcircuit.search.exact import Exact, exact
from subcircuit.search.hisp import Hisp, hisp
from subcircuit.search.hybrid import Hybrid, hybrid
from subcircuit.search.ifr import Ifr, ifr
from subcircuit.search.methods import METHODS, Method, method_named, method_of
from subcircuit.search.random_scores import RandomScores, random_scores
from subcircuit.search.result import Discovery, OnProgress, OnRound, OnStep, Round, Step
from subcircuit.search.scores import EdgeScores

__all__ = [
    "METHODS",
    "Acdc",
    "Behaviour",
    "CleanCorrupted",
    "Discovery",
    "Eap",
    "EapIgInputs",
    "EdgeScores",
    "Exact",
    "Hisp",
    "Hybrid",
    "Ifr",
    "Method",
    "OnProgress",
    "OnRound",
    "OnStep",
    "RandomScores",
    "Round",
    "Step",
    "acdc",
    "circuit_of",
    "clean_corrupted",
    "discover",
    "eap",
    "eap_ig_inputs",
    "exact",
    "hisp",
    "hybrid",
    "ifr",
    "method_named",
    "method_of",
    "random_scores",
]
