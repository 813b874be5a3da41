"""The model and the prompts of a recorded circuit, found again by name and digest.

A folder or a prompt file is looked for by its name near the run and near the working directory, and taken if its digest is the
recorded one; records hold no paths. The model that was loaded is compared once more, by its weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subcircuit.errors import ModelError, PromptError, SettingsError
from subcircuit.text import inert

if TYPE_CHECKING:
    from subcircuit.graph.circuit import ModelRecord, TaskRecord
    from subcircuit.model.transformer import Transformer


def model_source(path: Path, recorded: "ModelRecord") -> str:
    """The argument of `load_model` for the model of a circuit.

    Args:
        path: path of the circuit.

    Raises:
        ModelError: another model has its name here, and its files are not near.
    """
    from subcircuit.model.load.records import DIGEST, digest_of_name, find_model

    if recorded.revision is None or not recorded.revision.startswith(DIGEST):
        return recorded.name
    found = find_model(recorded.name, recorded.revision, _folder(path))
    if found is not None:
        return found
    name, here = inert(recorded.name), digest_of_name(recorded.name)
    other = "" if here is None else f" The model called {name} on this machine has digest {_short(here)}."
    raise ModelError(
        f"{path} was found in {name}, whose files have digest {_short(recorded.revision)}. No model of that name near the run or the "
        f"working directory has this digest.{other} Give --model PATH; it may also be another model to measure the circuit in."
    )


def task_source(path: Path, recorded: "TaskRecord") -> str:
    """The argument of `load_task` for the task of a circuit.

    Args:
        path: path of the circuit.

    Raises:
        PromptError: the prompt file is not near, or has other content now.
        SettingsError: the prompts were made in Python.
    """
    from subcircuit.tasks import tasks
    from subcircuit.tasks.jsonl import find_prompts

    file, digest = recorded.parameters.get("file"), recorded.parameters.get("sha256")
    if isinstance(file, str) and isinstance(digest, str):
        found, others = find_prompts(file, digest, _folder(path))
        if found is not None:
            return str(found)
        why = f"and {others[0]} has other content now" if others else "which is not near the run or the working directory"
        raise PromptError(f"{path} was found on the prompts of {inert(file)}, {why}: give --task PATH")
    if recorded.name not in {task.name for task in tasks()}:
        raise SettingsError(
            f"{path} was found on prompts that were made in Python (task {inert(recorded.name)}), which the record does not store: give "
            "--task NAME or --task FILE.jsonl"
        )
    return recorded.name


def run_sources(path: Path, fields: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, str | None]:
    """The current paths of a run's model files and prompt file, as options; None for a file that is not found.

    Models from the hub and built-in tasks are not included, because their names suffice.

    Args:
        path: path of the run.
        fields: the fields of its spec, which hold names.
        identity: its digests.
    """
    from subcircuit.model.load.records import DIGEST, find_model
    from subcircuit.tasks.jsonl import find_prompts

    model, files = fields.get("model"), identity.get("model_files") or f"{DIGEST}{identity.get('checkpoint', '')}"
    task, digest = fields.get("task"), identity.get("prompt_file")
    paths: dict[str, str | None] = {}
    if isinstance(model, str) and isinstance(files, str) and files.startswith(DIGEST) and files != DIGEST:
        paths["model"] = find_model(model, files, _folder(path))
    if isinstance(task, str) and isinstance(digest, str):
        prompts = find_prompts(task, digest, _folder(path))[0]
        paths["task"] = None if prompts is None else str(prompts)
    return paths


def is_same_model(recorded: "ModelRecord", model: "Transformer") -> bool | None:
    """Whether a model has the weights that were recorded; None where that cannot be told.

    Weights are compared where they are in the same dtype, else the revision or the digest of the files.
    """
    if recorded.weights is not None and recorded.dtype == str(model.dtype).removeprefix("torch."):
        return recorded.weights == model.weights_digest
    if recorded.revision is None or model.revision is None:
        return None
    return recorded.revision == model.revision


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _short(revision: str) -> str:
    return revision.removeprefix("sha256:")[:12]
