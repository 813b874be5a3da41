"""The search methods by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from subcircuit.errors import SettingsError, UnknownNameError
from subcircuit.graph import Record
from subcircuit.search.acdc import acdc
from subcircuit.search.atp_star import AtpStar, atp_star
from subcircuit.search.attribution import check_differentiable, check_gradient_at_clean
from subcircuit.search.clean_corrupted import CleanCorrupted, check_ends, clean_corrupted
from subcircuit.search.eap import Eap, eap
from subcircuit.search.eap_ig_activations import EapIgActivations, eap_ig_activations
from subcircuit.search.eap_ig_inputs import EapIgInputs, eap_ig_inputs
from subcircuit.search.edge_pruning import EdgePruning, edge_pruning
from subcircuit.search.exact import Exact, exact
from subcircuit.search.hisp import Hisp, hisp
from subcircuit.search.hybrid import Hybrid, hybrid
from subcircuit.search.ifr import Ifr, ifr
from subcircuit.search.problem import Problem
from subcircuit.search.random_scores import RandomScores, random_scores
from subcircuit.search.refine import Refine, refine
from subcircuit.search.relp import Relp, relp
from subcircuit.search.rules import Acdc
from subcircuit.search.subnetwork_probing import SubnetworkProbing, subnetwork_probing
from subcircuit.search.ugs import Ugs, ugs


def _anything(problem: Problem) -> None:
    """Any metric and ablation will do."""


_ALONE = "cost of cutting the edge alone in the whole model"
_FIRST_ORDER = f"first-order estimate of the {_ALONE}"
_TRIED = "cost of cutting the edge when it was tried, after the cuts made before; not its effect alone"
_MEASURED = f"{_ALONE}, measured"
_NOMINATED = f"{_MEASURED}; 0 for edges that were not nominated"
_FLOW = "share of the reader's input that the writer accounts for"
_IMPORTANCE = "importance of the lesser of the edge's two nodes"
_NODE_ODDS = "odds that the lesser of the edge's two nodes is kept"
_ODDS = "odds that the edge is kept"


@dataclass(frozen=True)
class Method:
    """A search method.

    Args:
        name: to ask for it by.
        description: one line.
        settings: its config type.
        search: ``search(problem, settings, on_step, journal)``.
        check: refuses problems that the search would refuse, before anything is run.
        ranks: whether it returns ``EdgeScores``, of which a selection makes a circuit; otherwise it finds one itself.
        scores: what the score of an edge means.
    """

    name: str
    description: str
    settings: type[Any]
    search: Callable[..., Any]
    check: Callable[[Problem], None] = check_differentiable
    ranks: bool = True
    scores: str = _FIRST_ORDER


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("acdc", "edges cut one by one, exactly (Conmy et al. 2023)", Acdc, acdc, _anything, False, _TRIED),
        Method(
            "refine",
            "a coarse ACDC, grown and pruned until it is faithful on unseen prompts",
            Refine,
            refine,
            ranks=False,
            scores="what cutting the edge alone adds to the loss of the refinement, in the circuit",
        ),
        Method(
            "exact",
            "the effect of cutting each edge alone: edge activation patching",
            Exact,
            exact,
            _anything,
            scores=_MEASURED,
        ),
        Method(
            "hybrid",
            "attribution nominates edges, exact effects rank them",
            Hybrid,
            hybrid,
            scores=_NOMINATED,
        ),
        Method("eap", "first order, at the clean run (Syed et al. 2023)", Eap, eap, check_gradient_at_clean),
        Method("eap-ig-inputs", "gradients along the path of inputs (Hanna et al. 2024)", EapIgInputs, eap_ig_inputs),
        Method(
            "eap-ig-activations", "gradients along paths of activations (Marks et al. 2024)", EapIgActivations, eap_ig_activations
        ),
        Method("clean-corrupted", "gradients at both ends", CleanCorrupted, clean_corrupted, check_ends),
        Method("relp", "gradients by the rules of LRP (Jafari et al. 2025)", Relp, relp, check_gradient_at_clean),
        Method("atp-star", "softmax recomputed, layers dropped (Kramár et al. 2024)", AtpStar, atp_star, check_gradient_at_clean),
        Method(
            "ifr",
            "information flow: no gradients, no metric (Ferrando & Voita 2024)",
            Ifr,
            ifr,
            _anything,
            scores=_FLOW,
        ),
        Method(
            "hisp",
            "importance of nodes (Michel et al. 2019)",
            Hisp,
            hisp,
            check_gradient_at_clean,
            scores=_IMPORTANCE,
        ),
        Method(
            "subnetwork-probing",
            "masks on nodes, trained (Cao et al. 2021)",
            SubnetworkProbing,
            subnetwork_probing,
            scores=_NODE_ODDS,
        ),
        Method(
            "edge-pruning",
            "masks on edges and nodes, trained (Bhaskar et al. 2024)",
            EdgePruning,
            edge_pruning,
            scores=_ODDS,
        ),
        Method("ugs", "masks on edges, sampled uniformly (Li & Janson 2024)", Ugs, ugs, scores=_ODDS),
        Method(
            "random",
            "chance: what every other method has to beat",
            RandomScores,
            random_scores,
            _anything,
            scores="chance, nothing is measured",
        ),
    )
}


def method_named(name: str) -> Method:
    """The method of this name.

    Raises:
        UnknownNameError: there is none; the nearest names are suggested.
    """
    if name not in METHODS:
        raise UnknownNameError("method", name, tuple(METHODS))
    return METHODS[name]


def method_of(settings: object) -> Method:
    """The method that these settings belong to.

    Raises:
        SettingsError: they are no method's.
    """
    for method in METHODS.values():
        if isinstance(settings, method.settings):
            return method
    known = ", ".join(method.settings.__name__ for method in METHODS.values())
    raise SettingsError(
        f"a {type(settings).__name__} is no method: give a name, such as 'acdc', or settings, such as Acdc(threshold=0.02). "
        f"Settings: {known}."
    )


def method_settings(asked: Any) -> Any:
    """Settings from settings, their class, or the name of a method: its defaults.

    Raises:
        UnknownNameError: there is no method of that name.
        SettingsError: it is none of these.
    """
    settings = method_named(asked).settings() if isinstance(asked, str) else asked
    settings = settings() if isinstance(settings, type) and settings in {m.settings for m in METHODS.values()} else settings
    method_of(settings)
    return settings


def meaning_of_scores(record: Record | None) -> str | None:
    """What the scores of a recorded circuit's edges mean; None where that is not known."""
    method = None if record is None else METHODS.get(record.method.name)
    if record is None or method is None:
        return None
    match record.method.parameters.get("direction"):
        case "denoising":
            return f"{method.scores} (restored to the corrupted run instead of cut)"
        case "both":
            return f"{method.scores}, or restoring it to the corrupted run: the larger of the two"
        case _:
            return method.scores
