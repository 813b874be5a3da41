"""Search methods: functions from a model, its graph and a behaviour to a circuit or to scores of edges."""

from subcircuit.search.acdc import acdc
from subcircuit.search.atp_star import AtpStar, atp_star
from subcircuit.search.attribution import Rounds
from subcircuit.search.clean_corrupted import CleanCorrupted, clean_corrupted
from subcircuit.search.discover import circuit_of, discover, look_inside, refine_circuit
from subcircuit.search.eap import Eap, eap
from subcircuit.search.eap_ig_activations import EapIgActivations, eap_ig_activations
from subcircuit.search.eap_ig_inputs import EapIgInputs, eap_ig_inputs
from subcircuit.search.edge_pruning import EdgePruning, edge_pruning
from subcircuit.search.estimate import Estimate, estimate
from subcircuit.search.exact import Exact, exact
from subcircuit.search.hisp import Hisp, hisp
from subcircuit.search.hybrid import Hybrid, hybrid
from subcircuit.search.ifr import Ifr, ifr
from subcircuit.search.journal import Journal
from subcircuit.search.methods import METHODS, Method, meaning_of_scores, method_named, method_of, method_settings
from subcircuit.search.neurons import NeuronScores, loss_with_neurons, neuron_scores
from subcircuit.search.optimal import LearnOptimal, ablation_for, learn_optimal
from subcircuit.search.per_example import effects_by_example
from subcircuit.search.problem import Problem
from subcircuit.search.random_scores import RandomScores, random_scores
from subcircuit.search.refine import Refine, refine
from subcircuit.search.relp import Relp, relp
from subcircuit.search.result import Discovery, OnProgress, OnRound, OnStep, Refining, Round, Step
from subcircuit.search.rules import Acdc
from subcircuit.search.scores import EdgeScores
from subcircuit.search.subnetwork_probing import SubnetworkProbing, subnetwork_probing
from subcircuit.search.ugs import Ugs, ugs
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
    "EdgeScores",
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
    "OnRound",
    "OnStep",
    "Problem",
    "RandomScores",
    "Refine",
    "Refining",
    "Relp",
    "Round",
    "Rounds",
    "Step",
    "SubnetworkProbing",
    "Ugs",
    "ablation_for",
    "acdc",
    "atp_star",
    "circuit_of",
    "clean_corrupted",
    "discover",
    "eap",
    "eap_ig_activations",
    "eap_ig_inputs",
    "edge_pruning",
    "effects_by_example",
    "estimate",
    "exact",
    "faithfulness_of",
    "hisp",
    "hybrid",
    "ifr",
    "learn_optimal",
    "look_inside",
    "loss_with_neurons",
    "meaning_of_scores",
    "method_named",
    "method_of",
    "method_settings",
    "neuron_scores",
    "random_scores",
    "refine",
    "refine_circuit",
    "relp",
    "subnetwork_probing",
    "ugs",
    "warnings_of",
    "zoom",
]
