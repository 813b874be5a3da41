"""Search methods: each takes a problem and returns a circuit or a ranking of edges."""

from subcircuit.search.acdc import Acdc
from subcircuit.search.atp_star import AtpStar
from subcircuit.search.attribution import effects_by_example
from subcircuit.search.discover import find_circuit, look_inside, refine_circuit
from subcircuit.search.eap import CleanCorrupted, Eap, EapIgActivations, EapIgInputs
from subcircuit.search.edge_pruning import EdgePruning
from subcircuit.search.estimate import Estimate, estimate
from subcircuit.search.exact import Exact
from subcircuit.search.hisp import Hisp
from subcircuit.search.hybrid import Hybrid
from subcircuit.search.ifr import Ifr
from subcircuit.search.journal import Journal
from subcircuit.search.method import Method, search_at
from subcircuit.search.methods import METHODS, meaning_of_scores, method_named, method_of, method_with
from subcircuit.search.neurons import NeuronScores, loss_with_neurons, neuron_scores
from subcircuit.search.optimal import LearnOptimal, ablation_for, ablation_with, learn_optimal
from subcircuit.search.problem import Problem
from subcircuit.search.progress import OnProgress, Progress, ProgressCounter, in_phase
from subcircuit.search.random_scores import RandomScores
from subcircuit.search.refine import Refine
from subcircuit.search.relp import Relp
from subcircuit.search.result import Discovery, Result, scored, timed
from subcircuit.search.subnetwork_probing import SubnetworkProbing
from subcircuit.search.ugs import Ugs
from subcircuit.search.warnings import faithfulness_of, warnings_of
from subcircuit.search.zoom import zoom

__all__ = [
    "METHODS",
    "Acdc",
    "AtpStar",
    "CleanCorrupted",
    "Discovery",
    "Eap",
    "EapIgActivations",
    "EapIgInputs",
    "EdgePruning",
    "Estimate",
    "Exact",
    "Hisp",
    "Hybrid",
    "Ifr",
    "Journal",
    "LearnOptimal",
    "Method",
    "NeuronScores",
    "OnProgress",
    "Problem",
    "Progress",
    "ProgressCounter",
    "RandomScores",
    "Refine",
    "Relp",
    "Result",
    "SubnetworkProbing",
    "Ugs",
    "ablation_for",
    "ablation_with",
    "effects_by_example",
    "estimate",
    "faithfulness_of",
    "find_circuit",
    "in_phase",
    "learn_optimal",
    "look_inside",
    "loss_with_neurons",
    "meaning_of_scores",
    "method_named",
    "method_of",
    "method_with",
    "neuron_scores",
    "refine_circuit",
    "scored",
    "search_at",
    "timed",
    "warnings_of",
    "zoom",
]
