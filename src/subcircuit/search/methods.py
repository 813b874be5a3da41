"""The search methods by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from subcircuit.errors import UnknownNameError
from subcircuit.search.acdc import Acdc, acdc
from subcircuit.search.attribution import check_differentiable
from subcircuit.search.behaviour import Behaviour
from subcircuit.search.clean_corrupted import CleanCorrupted, check_ends, clean_corrupted
from subcircuit.search.eap import Eap, eap
from subcircuit.search.eap_ig_inputs import EapIgInputs, eap_ig_inputs
from subcircuit.search.exact import Exact, exact
from subcircuit.search.hisp import Hisp, hisp
from subcircuit.search.hybrid import Hybrid, hybrid
from subcircuit.search.ifr import Ifr, ifr
from subcircuit.search.random_scores import RandomScores, random_scores


@dataclass(frozen=True)
class Method:
    """A search method.

    Args:
        name: to ask for it by.
        description: one line.
        settings: its config type.
        search: ``search(model, graph, behaviour, settings, on_step)``.
        ranks: whether it returns ``EdgeScores``, of which a selection makes a circuit; otherwise it finds one itself.
        check: refuses behaviours that the search would refuse, before anything is run.
    """

    name: str
    description: str
    settings: type[Any]
    search: Callable[..., Any]
    ranks: bool = True
    check: Callable[[Behaviour], None] = lambda behaviour: None


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("acdc", "cut edges one by one, exactly; keep those that matter (Conmy et al. 2023)", Acdc, acdc, ranks=False),
        Method("exact", "the effect of cutting each edge alone (edge activation patching)", Exact, exact),
        Method("hybrid", "attribution nominates edges, exact effects rank them", Hybrid, hybrid, check=check_differentiable),
        Method(
            "eap",
            "edge attribution patching: first order, at the clean run (Syed et al. 2023)",
            Eap,
            eap,
            check=check_differentiable,
        ),
        Method(
            "eap-ig-inputs",
            "gradients along the path of inputs (Hanna et al. 2024)",
            EapIgInputs,
            eap_ig_inputs,
            check=check_differentiable,
        ),
        Method(
            "clean-corrupted", "gradients at both ends, clean and corrupted", CleanCorrupted, clean_corrupted, check=check_ends
        ),
        Method("ifr", "information flow routes: no gradients, no metric (Ferrando & Voita 2024)", Ifr, ifr),
        Method("hisp", "head importance, of nodes (Michel et al. 2019)", Hisp, hisp, check=check_differentiable),
        Method("random", "chance: what every other method has to beat", RandomScores, random_scores),
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
    """The method that these settings belong to."""
    return next(method for method in METHODS.values() if isinstance(settings, method.settings))
