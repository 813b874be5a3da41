"""The package's search methods by name."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from subcircuit.errors import SettingsError, UnknownNameError
from subcircuit.graph import Record
from subcircuit.search.acdc import Acdc
from subcircuit.search.atp_star import AtpStar
from subcircuit.search.eap import CleanCorrupted, Eap, EapIgActivations, EapIgInputs
from subcircuit.search.edge_pruning import EdgePruning
from subcircuit.search.exact import Exact
from subcircuit.search.hisp import Hisp
from subcircuit.search.hybrid import Hybrid
from subcircuit.search.ifr import Ifr
from subcircuit.search.method import Method, MethodClass
from subcircuit.search.random_scores import RandomScores
from subcircuit.search.refine import Refine
from subcircuit.search.relp import Relp
from subcircuit.search.settings import settings_of
from subcircuit.search.subnetwork_probing import SubnetworkProbing
from subcircuit.search.ugs import Ugs

METHODS: dict[str, MethodClass] = {
    method.name: method
    for method in (
        Acdc,
        Refine,
        Exact,
        Hybrid,
        Eap,
        EapIgInputs,
        EapIgActivations,
        CleanCorrupted,
        Relp,
        AtpStar,
        Ifr,
        Hisp,
        SubnetworkProbing,
        EdgePruning,
        Ugs,
        RandomScores,
    )
}


def method_named(name: str) -> MethodClass:
    """The method of this name.

    Raises:
        UnknownNameError: there is none; the nearest names are suggested.
    """
    if name not in METHODS:
        raise UnknownNameError("method", name, tuple(METHODS))
    return METHODS[name]


def method_with(name: str, settings: Mapping[str, Any], seed: int | None = None) -> Method:
    """The method of this name with these settings.

    Args:
        settings: values by name; texts are converted to the types of the settings.
        seed: random seed of a stochastic method, unless ``settings`` has one.

    Raises:
        UnknownNameError: no method has this name, or no method has a setting of this name.
        SettingsError: only other methods have the setting, a value has the wrong type, or a required setting is missing.
    """
    others = {other: [field.name for field in fields(kind)] for other, kind in METHODS.items()}
    return settings_of(f"method {name}", method_named(name), settings, seed, others)


def method_of(asked: Method | MethodClass | str) -> Method:
    """A method from itself, or from its class or name: with its default settings.

    Raises:
        UnknownNameError: there is no method of that name.
        SettingsError: it is none of these.
    """
    kind = method_named(asked) if isinstance(asked, str) else asked
    method = kind() if isinstance(kind, type) and is_dataclass(kind) else kind
    if isinstance(method, Method):
        return method
    known = ", ".join(method.__name__ for method in METHODS.values())
    raise SettingsError(
        f"a {type(asked).__name__} is not a method: give a name, such as 'acdc', or settings, such as Acdc(threshold=0.02). "
        f"Methods: {known}; a method of your own is a frozen dataclass that extends Method."
    )


def meaning_of_scores(record: Record | None) -> str | None:
    """The meaning of the edge scores of a recorded circuit; None if unknown."""
    method = None if record is None else METHODS.get(record.method.name)
    if record is None or method is None or method.meaning is None:
        return None
    match record.method.parameters.get("direction"):
        case "denoising":
            return f"{method.meaning} (with restoring in the corrupted run instead of cutting)"
        case "both":
            return f"{method.meaning}, or of restoring it in the corrupted run, whichever is larger"
        case _:
            return method.meaning
