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
    from subcircuit.edit import CutModel, Means, Relearning, Removal, keep, load_edited, remove
    from subcircuit.errors import (
        CircuitFileError,
        EditError,
        GraphError,
        ModelError,
        NumericalError,
        OutputError,
        PromptError,
        PromptMismatchError,
        RunError,
        SettingsError,
        ShortOfMemoryError,
        Stopped,
        SubcircuitError,
        UnknownNameError,
        UnsupportedModelError,
    )
    from subcircuit.evaluate import (
        Contest,
        Judgement,
        agreements,
        curve,
        evaluate_circuit,
        faithfulness,
        judge,
        random_circuit,
        random_connected_circuit,
        recovery,
        reset,
        stability,
        validate,
    )
    from subcircuit.explain import Explanation, Thresholds, explain_circuit
    from subcircuit.graph import Circuit, Comparison, Edge, Graph, Greedy, Scope, Threshold, TopN
    from subcircuit.model import Transformer, load_model
    from subcircuit.report import (
        HeldOut,
        Summary,
        draw_attention,
        draw_circuit,
        export_circuit,
        import_circuit,
        new_directory,
        save_picture,
        to_networkx,
        write_kept,
        write_removal,
        write_run,
    )
    from subcircuit.search import (
        Acdc,
        AtpStar,
        CleanCorrupted,
        Discovery,
        Eap,
        EapIgActivations,
        EapIgInputs,
        EdgePruning,
        EdgeScores,
        Exact,
        Hisp,
        Hybrid,
        Ifr,
        LearnOptimal,
        RandomScores,
        Relp,
        Round,
        Step,
        SubnetworkProbing,
        Ugs,
        discover,
        learn_optimal,
    )
    from subcircuit.tasks import Task, competence, graph_of, load_held_out, load_task, placed, places_of
    from subcircuit.truth import case
    from subcircuit.workers import Crew, together

__version__ = "0.1.0"

_HOMES = {
    "subcircuit.errors": (
        "CircuitFileError",
        "EditError",
        "GraphError",
        "ModelError",
        "NumericalError",
        "OutputError",
        "PromptError",
        "RunError",
        "Stopped",
        "PromptMismatchError",
        "SettingsError",
        "ShortOfMemoryError",
        "SubcircuitError",
        "UnknownNameError",
        "UnsupportedModelError",
    ),
    "subcircuit.edit": ("CutModel", "Means", "Relearning", "Removal", "keep", "load_edited", "remove"),
    "subcircuit.evaluate": (
        "Contest",
        "Judgement",
        "agreements",
        "curve",
        "evaluate_circuit",
        "faithfulness",
        "judge",
        "random_circuit",
        "random_connected_circuit",
        "recovery",
        "reset",
        "stability",
        "validate",
    ),
    "subcircuit.explain": ("Explanation", "Thresholds", "explain_circuit"),
    "subcircuit.graph": ("Circuit", "Comparison", "Edge", "Graph", "Greedy", "Scope", "Threshold", "TopN"),
    "subcircuit.model": ("Transformer", "load_model"),
    "subcircuit.report": (
        "Summary",
        "draw_attention",
        "draw_circuit",
        "export_circuit",
        "import_circuit",
        "new_directory",
        "save_picture",
        "to_networkx",
        "HeldOut",
        "write_kept",
        "write_removal",
        "write_run",
    ),
    "subcircuit.search": (
        "AtpStar",
        "EapIgActivations",
        "Relp",
        "SubnetworkProbing",
        "EdgePruning",
        "Ugs",
        "LearnOptimal",
        "learn_optimal",
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
    "subcircuit.tasks": ("Task", "competence", "graph_of", "load_held_out", "load_task", "placed", "places_of"),
    "subcircuit.truth": ("case",),
    "subcircuit.workers": ("Crew", "together"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Acdc",
    "AtpStar",
    "Circuit",
    "CircuitFileError",
    "CleanCorrupted",
    "Comparison",
    "Contest",
    "Crew",
    "CutModel",
    "Discovery",
    "Eap",
    "EapIgActivations",
    "EapIgInputs",
    "Edge",
    "EdgePruning",
    "EdgeScores",
    "EditError",
    "Exact",
    "Explanation",
    "Graph",
    "GraphError",
    "Greedy",
    "HeldOut",
    "Hisp",
    "Hybrid",
    "Ifr",
    "Judgement",
    "LearnOptimal",
    "Means",
    "ModelError",
    "NumericalError",
    "OutputError",
    "PromptError",
    "PromptMismatchError",
    "RandomScores",
    "Relearning",
    "Relp",
    "Removal",
    "Round",
    "RunError",
    "Scope",
    "SettingsError",
    "ShortOfMemoryError",
    "Step",
    "Stopped",
    "SubcircuitError",
    "SubnetworkProbing",
    "Summary",
    "Task",
    "Threshold",
    "Thresholds",
    "TopN",
    "Transformer",
    "Ugs",
    "UnknownNameError",
    "UnsupportedModelError",
    "__version__",
    "agreements",
    "case",
    "competence",
    "curve",
    "discover",
    "draw_attention",
    "draw_circuit",
    "evaluate_circuit",
    "explain_circuit",
    "export_circuit",
    "faithfulness",
    "graph_of",
    "import_circuit",
    "judge",
    "keep",
    "learn_optimal",
    "load_edited",
    "load_held_out",
    "load_model",
    "load_task",
    "new_directory",
    "placed",
    "places_of",
    "random_circuit",
    "random_connected_circuit",
    "recovery",
    "remove",
    "reset",
    "save_picture",
    "stability",
    "to_networkx",
    "together",
    "validate",
    "write_kept",
    "write_removal",
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
