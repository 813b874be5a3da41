"""A submission to MIB's circuit localization track: written and checked before the upload.

A submission has one folder ``<task>_<model>`` each, with either one file of scores for every edge, or nine circuits, one with at
most each of 0.1, 0.2, 0.5, 1, 2, 5, 10, 20 and 50 % of the edges (Mueller et al. 2025, arXiv 2504.13151).
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from subcircuit.errors import CircuitFileError, GraphError, SettingsError
from subcircuit.graph import By, Circuit, TopN, select_edges
from subcircuit.report.exchange.mib import read_mib_json, read_mib_pt, write_mib_json, write_mib_pt
from subcircuit.report.folder import write_directory

PERCENTAGES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
TASKS = ("ioi", "mcqa", "arithmetic_addition", "arithmetic_subtraction", "arc_easy", "arc_challenge")
MODELS = ("interpbench", "gpt2", "qwen2.5", "gemma2", "llama3")
_THEIR_MODELS = {"gpt2": "gpt2", "qwen2.5-0.5b": "qwen2.5", "gemma-2-2b": "gemma2", "llama-3.1-8b": "llama3"}
_MOST_FILES = 64

Suffix = Literal[".json", ".pt"]


@dataclass(frozen=True)
class SubmissionEntry:
    """One checked folder of a submission.

    Args:
        name: name of the folder, ``<task>_<model>``.
        kind: kind of its content.
        edges: number of edges of the model's graph.
        sizes: number of edges of each circuit, ascending; empty for importance scores.
        warnings: reasons for which the benchmark may refuse the folder.
    """

    name: str
    kind: Literal["importances", "circuits"]
    edges: int
    sizes: tuple[int, ...]
    warnings: tuple[str, ...]


def write_submission(
    circuits: Sequence[Circuit],
    folder: str | Path,
    *,
    select: bool = False,
    by: By = "absolute",
    suffix: Suffix = ".pt",
    d_model: int | None = None,
) -> tuple[SubmissionEntry, ...]:
    """Write and check a submission; nothing is left behind if the check fails.

    Args:
        circuits: circuits with records of task and model. A single circuit of a task and model must have a score for every edge;
            from several, the largest that fits is used for each percentage.
        folder: new or empty.
        select: write nine circuits of the best edges by score instead of a file of importances.
        by: ranking of scores for ``select``.
        suffix: ``.pt`` (small) or ``.json`` (readable).
        d_model: width of models whose circuits do not record it.

    Raises:
        SettingsError: a circuit without a record, or circuits that do not cover the percentages.
        GraphError: scopes that the format cannot hold, or edges without a score.
        OutputError: the folder cannot be written.
    """
    groups: defaultdict[str, list[Circuit]] = defaultdict(list)
    for circuit in circuits:
        groups[folder_name(circuit)].append(circuit)
    if not groups:
        raise SettingsError("a submission needs at least one circuit")
    chosen = {name: _files(name, group, select, by) for name, group in groups.items()}
    checked: list[SubmissionEntry] = []

    def fill(temporary: Path) -> None:
        for name, files in chosen.items():
            (temporary / name).mkdir()
            for stem, circuit in files.items():
                write = write_mib_pt if suffix == ".pt" else write_mib_json
                write(circuit, temporary / name / f"{stem}{suffix}", d_model)
        checked.extend(check_submission(temporary))

    write_directory(folder, fill)
    return tuple(checked)


def folder_name(circuit: Circuit) -> str:
    """``<task>_<model>`` with the benchmark's names, if it has them.

    Raises:
        SettingsError: the circuit has no record.
    """
    if circuit.record is None:
        raise SettingsError("a circuit without a record has no task and model, so it cannot be submitted")
    model = circuit.record.model.name.rstrip("/").rpartition("/")[2].lower()
    return f"{_slug(circuit.record.task.name)}_{_THEIR_MODELS.get(model, _slug(model))}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower().removesuffix(".jsonl")).strip("-.") or "unnamed"


def _files(name: str, group: list[Circuit], select: bool, by: By) -> dict[str, Circuit]:
    """The content of a folder: file names without suffix, and circuits."""
    if any(circuit.graph != group[0].graph for circuit in group):
        raise GraphError(f"{name}: the circuits are of different graphs")
    if len(group) > 1:
        return {_stem(share): _largest_within(name, group, share) for share in PERCENTAGES}
    _check_scored(name, group[0])
    if not select:
        return {"importances": group[0]}
    return {_stem(share): _selected(group[0], share, by) for share in PERCENTAGES}


def _stem(share: float) -> str:
    return f"circuit_{share:g}"


def _allowed(edges: int, share: float) -> int:
    return int(edges * share / 100)


def _selected(circuit: Circuit, share: float, by: By) -> Circuit:
    assert circuit.scores is not None
    chosen = select_edges(circuit.graph, circuit.scores, TopN(_allowed(circuit.graph.n_edges, share), by))
    return replace(chosen, record=circuit.record)


def _largest_within(name: str, group: list[Circuit], share: float) -> Circuit:
    edges = group[0].graph.n_edges
    fitting = [circuit for circuit in group if circuit.n_edges <= _allowed(edges, share)]
    if not fitting:
        least = min(circuit.n_edges for circuit in group)
        raise SettingsError(
            f"{name}: none of {len(group)} circuits has at most {share:g} % of {edges:,} edges, that is {_allowed(edges, share):,}. "
            f"The smallest has {least:,}: add a smaller circuit (for acdc, use a higher --threshold)"
        )
    return max(fitting, key=lambda circuit: circuit.n_edges)


def _check_scored(name: str, circuit: Circuit) -> None:
    missing = circuit.graph.n_edges if circuit.scores is None else int(circuit.scores[circuit.graph.edges].isnan().sum())
    if missing:
        raise GraphError(
            f"{name}: {missing:,} of {circuit.graph.n_edges:,} edges have no score, and importances need a score for every edge: "
            "use a method that scores all edges, such as eap-ig-inputs, or give circuits of all nine sizes"
        )


def check_submission(folder: str | Path) -> tuple[SubmissionEntry, ...]:
    """Read a submission as the benchmark does.

    Raises:
        CircuitFileError: the benchmark would refuse a folder or file; the message gives the reason.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CircuitFileError(f"{root} is not a folder of a submission")
    folders = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    for path in folders:
        if path.is_symlink() or not path.is_dir():
            raise CircuitFileError(f"{path} is not a folder: a submission contains only folders <task>_<model>")
    if not folders:
        raise CircuitFileError(f"{root} is empty: a submission contains folders <task>_<model>")
    return tuple(_check_folder(path) for path in folders)


def _check_folder(path: Path) -> SubmissionEntry:
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    if len(files) > _MOST_FILES or any(file.is_symlink() or file.suffix not in (".json", ".pt") for file in files):
        raise CircuitFileError(f"{path} must contain only .json and .pt files")
    circuits = [(read_mib_pt if file.suffix == ".pt" else read_mib_json)(file, None) for file in files]
    if len(circuits) == 1:
        _check_importances(files[0], circuits[0])
        return SubmissionEntry(path.name, "importances", circuits[0].graph.n_edges, (), _warnings(path.name))
    return SubmissionEntry(path.name, "circuits", _check_circuits(path, circuits), _sizes(circuits), _warnings(path.name))


def _check_importances(file: Path, circuit: Circuit) -> None:
    scores = None if circuit.scores is None else circuit.scores[circuit.graph.edges]
    if scores is None or not bool(scores.isfinite().all()):
        raise CircuitFileError(f"{file}: importances need a number for every edge, and some edges have none")


def _check_circuits(path: Path, circuits: list[Circuit]) -> int:
    """Number of edges of the circuits' graph."""
    if len(circuits) != len(PERCENTAGES):
        raise CircuitFileError(
            f"{path} contains {len(circuits)} files: expected one file of importances, or {len(PERCENTAGES)} circuits"
        )
    if any(circuit.graph != circuits[0].graph for circuit in circuits):
        raise CircuitFileError(f"{path} contains circuits of different models")
    edges = circuits[0].graph.n_edges
    for size, share in zip(_sizes(circuits), PERCENTAGES, strict=True):
        if size > _allowed(edges, share):
            raise CircuitFileError(f"{path}: a circuit of {size:,} edges is more than {share:g} % of {edges:,}")
    return edges


def _sizes(circuits: list[Circuit]) -> tuple[int, ...]:
    return tuple(sorted(circuit.n_edges for circuit in circuits))


def _warnings(name: str) -> tuple[str, ...]:
    task, _, model = name.rpartition("_")
    known = ", ".join(MODELS)
    unknown_task = () if task.replace("-", "_") in TASKS else (f"{task!r} is not one of its tasks: {', '.join(TASKS)}",)
    return unknown_task + (() if model in MODELS else (f"{model!r} is not one of its models: {known}",))
