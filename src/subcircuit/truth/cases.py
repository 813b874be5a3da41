"""Cases by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from subcircuit.engine.ablation import Ablation, Resample, Zero
from subcircuit.entry import entry
from subcircuit.errors import SettingsError, UnknownNameError
from subcircuit.truth.case import Case
from subcircuit.truth.planted import PLANTED, planted_case
from subcircuit.truth.published import PublishedCircuit, Setting, published_case, published_circuit, published_names
from subcircuit.truth.tracr import PROGRAMS, Program, compile_program, tracr_case
from subcircuit.truth.trained import TRAINED, trained_case


@dataclass(frozen=True)
class CaseListing:
    """A case that can be asked for.

    Args:
        name: to ask for it by.
        description: one line.
        make: from an ablation to the case.
    """

    name: str
    description: str
    make: Callable[[Ablation], Case]


def _of_program(program: Program) -> CaseListing:
    return CaseListing(
        f"tracr-{program.name}", program.description, lambda ablation: tracr_case(compile_program(program), ablation)
    )


CASES: dict[str, CaseListing] = {
    listing.name: listing
    for listing in (
        *(_of_program(program) for program in PROGRAMS),
        *(CaseListing(planted.name, planted.description, partial(planted_case, planted.name)) for planted in PLANTED.values()),
        *(CaseListing(trained.name, trained.description, partial(trained_case, trained.name)) for trained in TRAINED.values()),
    )
}


@entry
def case(name: str, ablation: Ablation) -> Case:
    """The case of this name under an ablation; compiling a program, or cutting every edge of a trained model, takes seconds.

    Raises:
        UnknownNameError: there is none; the nearest names are suggested.
        SettingsError: truth is known under Zero and under Resample alone.
        ModelError: a RASP program, and tracr is not installed.
    """
    if name not in CASES:
        raise UnknownNameError("case", name, tuple(CASES))
    if not isinstance(ablation, Zero | Resample):
        raise SettingsError(f"case {name} is known under zero and resample ablation, not under {ablation.name}.")
    return CASES[name].make(ablation)


def known_cases(setting: Setting | None = None) -> dict[str, Callable[[Ablation], Case]]:
    """From the names of all cases, those of published circuits among them, to how they are had.

    Args:
        setting: of the published circuits, whose models must be found first.
    """
    published = {name: partial(_published, published_circuit(name), setting) for name in published_names()}
    return {**{name: partial(case, name) for name in CASES}, **published}


def _published(circuit: PublishedCircuit, setting: Setting | None, ablation: Ablation) -> Case:
    return published_case(circuit, ablation, setting)
