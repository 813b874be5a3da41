"""Find the sub-circuit of a language model that carries out a behaviour.

    import subcircuit as sc

    model = sc.load_model("smollm2-135m")
    task = sc.load_task("ioi", model, examples=8)
    result = sc.discover(model, task, sc.Acdc(threshold=0.02))
    result.circuit.save("ioi")

Names are imported when they are first used, so that importing the package (and ``subcircuit --help``) does not wait
for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subcircuit.errors import (
        CircuitFileError,
        GraphError,
        ModelError,
        NumericalError,
        OutputError,
        PromptError,
        PromptMismatchError,
        SettingsError,
        SubcircuitError,
        UnknownNameError,
        UnsupportedModelError,
    )
    from subcircuit.graph import Circuit, Comparison, Edge, Graph, Greedy, Scope, Threshold, TopN
    from subcircuit.model import Transformer, load_model
    from subcircuit.report import Summary, draw_circuit, new_directory, save_picture, write_run
    from subcircuit.search import (
        Acdc,
        CleanCorrupted,
        Discovery,
        Eap,
        EapIgInputs,
        EdgeScores,
        Exact,
        Hisp,
        Hybrid,
        Ifr,
        RandomScores,
        Round,
        Step,
        discover,
    )
    from subcircuit.tasks import Task, load_task

__version__ = "0.1.0"

_HOMES = {
    "subcircuit.errors": (
        "CircuitFileError",
        "GraphError",
        "ModelError",
        "NumericalError",
        "OutputError",
        "PromptError",
        "PromptMismatchError",
        "SettingsError",
        "SubcircuitError",
        "UnknownNameError",
        "UnsupportedModelError",
    ),
    "subcircuit.graph": ("Circuit", "Comparison", "Edge", "Graph", "Greedy", "Scope", "Threshold", "TopN"),
    "subcircuit.model": ("Transformer", "load_model"),
    "subcircuit.report": ("Summary", "draw_circuit", "new_directory", "save_picture", "write_run"),
    "subcircuit.search": (
        "Acdc",
        "CleanCorrupted",
        "Discovery",
        "Eap",
        "EapIgInputs",
        "EdgeScores",
        "Exact",
        "Hisp",
        "Hybrid",
        "Ifr",
        "RandomScores",
        "Round",
        "Step",
        "discover",
    ),
    "subcircuit.tasks": ("Task", "load_task"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Acdc",
    "Circuit",
    "CircuitFileError",
    "CleanCorrupted",
    "Comparison",
    "Discovery",
    "Eap",
    "EapIgInputs",
    "Edge",
    "EdgeScores",
    "Exact",
    "Graph",
    "GraphError",
    "Greedy",
    "Hisp",
    "Hybrid",
    "Ifr",
    "ModelError",
    "NumericalError",
    "OutputError",
    "PromptError",
    "PromptMismatchError",
    "RandomScores",
    "Round",
    "Scope",
    "SettingsError",
    "Step",
    "SubcircuitError",
    "Summary",
    "Task",
    "Threshold",
    "TopN",
    "Transformer",
    "UnknownNameError",
    "UnsupportedModelError",
    "__version__",
    "discover",
    "draw_circuit",
    "load_model",
    "load_task",
    "new_directory",
    "save_picture",
    "write_run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
