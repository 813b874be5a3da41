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
    """An available case.

    Args:
        name: its name for `case` and the command line.
        description: one line.
        make: function that returns the case under an ablation.
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
    """The case of this name under an ablation. A compiled program or a trained model takes seconds.

    Raises:
        UnknownNameError: no case has this name; the nearest names are suggested.
        SettingsError: the ablation is neither Zero nor Resample.
        ModelError: the case is a RASP program, and tracr is not installed.
    """
    if name not in CASES:
        raise UnknownNameError("case", name, tuple(CASES))
    if not isinstance(ablation, Zero | Resample):
        raise SettingsError(
            f"the circuit of case {name} is known under zero and resample ablation, not under {ablation.name}: choose one of these two."
        )
    return CASES[name].make(ablation)


def known_cases(setting: Setting | None = None) -> dict[str, Callable[[Ablation], Case]]:
    """A dict from the name of each case, published circuits included, to the function that makes it.

    Args:
        setting: settings of the published circuits, such as the place of their models.
    """
    published = {name: partial(_published, published_circuit(name), setting) for name in published_names()}
    return {**{name: partial(case, name) for name in CASES}, **published}


def _published(circuit: PublishedCircuit, setting: Setting | None, ablation: Ablation) -> Case:
    return published_case(circuit, ablation, setting)
