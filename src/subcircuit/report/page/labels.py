"""Reading ``explanation.json``, which lies beside a circuit that was explained."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subcircuit.errors import CircuitFileError

FILE = "explanation.json"
FORMAT = 1
LARGEST = 1 << 25


def read_labels(directory: Path) -> Mapping[str, Mapping[str, Any]]:
    """Label and evidence of each component; nothing where a circuit has not been explained.

    Raises:
        CircuitFileError: the file is damaged, or of a newer format.
    """
    file = directory / FILE
    try:
        if file.stat().st_size > LARGEST:
            raise CircuitFileError(f"{file}: larger than any explanation")
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CircuitFileError(f"{file}: cannot be read as JSON: {error}") from None
    version = content.get("format") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise CircuitFileError(f"{file}: format {version} is newer than this version reads ({FORMAT}): upgrade subcircuit")
    components = content.get("components") if isinstance(content, dict) else None
    if not isinstance(components, dict) or not all(isinstance(label, dict) for label in components.values()):
        raise CircuitFileError(f"{file}: not an explanation of format {FORMAT}: components is not an object of objects")
    return components
