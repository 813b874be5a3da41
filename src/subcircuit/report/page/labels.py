"""What ``explain`` found of a circuit's components, from the file that it leaves beside the circuit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subcircuit.explain import EXPLANATION_FILE, Explanation


def read_labels(directory: Path) -> Mapping[str, Mapping[str, Any]]:
    """Label and evidence of each component; nothing where a circuit has not been explained.

    Raises:
        CircuitFileError: the file is damaged, or of a newer format.
    """
    if not (directory / EXPLANATION_FILE).is_file():
        return {}
    components = Explanation.load(directory).components
    return {name: {"label": component.label, "evidence": component.evidence} for name, component in components.items()}
