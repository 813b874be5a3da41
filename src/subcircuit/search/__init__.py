"""Search methods: functions from a model, its graph and a behaviour to a circuit or to scores of edges."""

from subcircuit.search.acdc import Acdc, acdc
from subcircuit.search.behaviour import Behaviour
from subcircuit.search.clean_corrupted import CleanCorrupted, clean_corrupted
from subcircuit.search.discover import METHODS, Method, discover
from subcircuit.search.eap import Eap, eap
from subcircuit.search.eap_ig_inputs import EapIgInputs, eap_ig_inputs
from subcircuit.search.hisp import Hisp, hisp
from subcircuit.search.ifr import Ifr, ifr
from subcircuit.search.random_scores import RandomScores, random_scores
from subcircuit.search.result import AcdcResult, OnStep, Step
from subcircuit.search.scores import EdgeScores

__all__ = [
    "METHODS",
    "Acdc",
    "AcdcResult",
    "Behaviour",
    "CleanCorrupted",
    "Eap",
    "EapIgInputs",
    "EdgeScores",
    "Hisp",
    "Ifr",
    "Method",
    "OnStep",
    "RandomScores",
    "Step",
    "acdc",
    "clean_corrupted",
    "discover",
    "eap",
    "eap_ig_inputs",
    "hisp",
    "ifr",
    "random_scores",
]
