"""Circuits on disk: ``circuit.json`` with sorted edge names; beside it ``scores.safetensors`` and ``constants.safetensors``."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from subcircuit.errors import CircuitFileError, SubcircuitError
from subcircuit.graph.circuit import Circuit, Record
from subcircuit.graph.graph import Graph
from subcircuit.graph.scope import Scope
from subcircuit.graph.shape import GraphShape, check_scope
from subcircuit.io import write_json, write_whole

FORMAT: Final = 1
# larger than any real model: an untrusted file must not allocate a matrix that fills the memory
LARGEST_FILE = 1 << 28
MOST_WRITERS = 20_000
MOST_NEURONS = 1 << 20
MOST_POSITIONS = 1 << 12
CIRCUIT_FILE = "circuit.json"
SCORES_FILE = "scores.safetensors"
CONSTANTS_FILE = "constants.safetensors"


class CircuitFile(BaseModel):
    """The content of ``circuit.json``."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1]
    graph: GraphShape
    scope: Scope
    edges: list[str]
    scores: bool
    constants: bool = False
    record: Record | None
    units: dict[str, str] = Field(default_factory=dict)
    """Levels that the scope does not express, by unit name: see ``Graph.with_units``."""


def save_circuit(circuit: Circuit, path: Path) -> None:
    """Write a circuit into the directory ``path``, or into one file without numbers if it is named ``*.circuit.json``.

    Files appear whole or not at all: each is written to a temporary file and renamed.
    """
    single = path.name.endswith(".circuit.json")
    numbers = {} if single else {SCORES_FILE: circuit.scores, CONSTANTS_FILE: circuit.constants}
    content = CircuitFile(
        format=FORMAT,
        graph=circuit.graph.shape,
        scope=circuit.graph.scope,
        edges=circuit.names,
        scores=numbers.get(SCORES_FILE) is not None,
        constants=numbers.get(CONSTANTS_FILE) is not None,
        record=circuit.record,
        units=circuit.graph.from_elsewhere,
    )
    directory = path.parent if single else path
    directory.mkdir(parents=True, exist_ok=True)
    for name, values in numbers.items():
        if values is not None:
            _save_numbers(directory / name, circuit.graph, values)
    told = content.model_dump(mode="json", exclude=None if content.units else {"units"})
    write_json(path if single else path / CIRCUIT_FILE, told, allow_nan=True)


def load_circuit(path: Path, graph: Graph | None = None) -> Circuit:
    """Read a circuit from a directory or from one ``circuit.json`` file.

    Args:
        graph: the circuit's graph; needed if it has units from outside, which a file only names.

    Raises:
        CircuitFileError: missing, damaged, of a newer format, of another graph, or naming edges that its graph does not have.
    """
    file = path / CIRCUIT_FILE if path.is_dir() else path
    content = _parse(file)
    told = _graph(file, content)
    graph = graph or told
    if (graph.shape, graph.scope, graph.from_elsewhere) != (told.shape, told.scope, content.units):
        of = ", ".join([str(told.scope), *(f"{name}={level}" for name, level in content.units.items())])
        raise CircuitFileError(
            f"{file}: the circuit's graph ({of}) is not the given graph ({graph.scope_text}): give Circuit.load(path, graph) the circuit's own graph"
        )
    try:
        circuit = Circuit.of_edges(graph, content.edges)
    except SubcircuitError as error:
        raise CircuitFileError(f"{file}: {error}") from error
    scores = _load_numbers(file.parent / SCORES_FILE, (len(graph.writers), len(graph.readers))) if content.scores else None
    constants = _load_numbers(file.parent / CONSTANTS_FILE, (len(graph.writers), None)) if content.constants else None
    return Circuit(graph, circuit.kept, scores, content.record, constants)


def _graph(file: Path, content: CircuitFile) -> Graph:
    shape, scope = content.graph, content.scope
    sizes = (shape.n_layers, shape.n_heads, shape.n_kv_heads)
    if min(sizes) < 1 or shape.n_heads % shape.n_kv_heads or shape.n_layers * (shape.n_heads + 1) > MOST_WRITERS:
        raise CircuitFileError(f"{file}: no model has {sizes[0]} layers of {sizes[1]} heads with {sizes[2]} key/value heads")
    resolved = sum(scope.of_mlp(layer) == "neuron" for layer in range(shape.n_layers))
    if (shape.neurons > 0) != (resolved > 0) or shape.neurons < 0 or resolved * shape.neurons > MOST_NEURONS:
        raise CircuitFileError(
            f"{file}: {shape.neurons} neurons in each of {resolved} MLPs do not fit the scope or exceed the limit"
        )
    layers, experts = shape.mixtures, shape.experts
    in_order = all(0 <= one < other for one, other in pairwise((*layers, shape.n_layers)))
    if (experts > 0) != bool(layers) or not in_order or experts < 0 or len(layers) * experts > MOST_NEURONS:
        raise CircuitFileError(f"{file}: no model has mixtures of {experts} experts in layers {list(layers)}")
    if len(shape.positions) > MOST_POSITIONS:
        raise CircuitFileError(f"{file}: {len(shape.positions):,} positions are more than any prompt has")
    try:
        check_scope(shape, scope)
    except SubcircuitError as error:
        raise CircuitFileError(f"{file}: {error}") from error
    return Graph(shape, scope)


def read_json(file: Path, kind: str, absent: str, newest: int) -> Any:
    """The content of an untrusted JSON file that states its format.

    Args:
        kind: the expected content, for messages.
        absent: advice for the error if the file does not exist.
        newest: the newest format that can be read.

    Raises:
        CircuitFileError: the file is missing, too large, not JSON, or of a newer format.
    """
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise CircuitFileError(f"{file}: the file is larger than any {kind}")
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CircuitFileError(f"{file} does not exist, so there is no {kind} here; {absent}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CircuitFileError(f"{file}: cannot be read as JSON: {error}") from None
    version = content.get("format") if isinstance(content, dict) else None
    if isinstance(version, int) and version > newest:
        raise CircuitFileError(
            f"{file}: format {version} is newer than {newest}, the newest that this version reads: upgrade subcircuit"
        )
    return content


def _parse(file: Path) -> CircuitFile:
    content = read_json(file, "circuit", f"a circuit directory holds {CIRCUIT_FILE}", FORMAT)
    try:
        return CircuitFile.model_validate(content)
    except SubcircuitError as error:
        raise CircuitFileError(f"{file}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CircuitFileError(f"{file}: not a circuit of format {FORMAT}: {where}: {first['msg']}") from None


def _save_numbers(file: Path, graph: Graph, values: torch.Tensor) -> None:
    names = {"writers": json.dumps([str(w) for w in graph.writers]), "readers": json.dumps([str(r) for r in graph.readers])}
    tensors = {_name_in(file): values.to(torch.float32).cpu().contiguous()}
    write_whole(file, lambda temporary: temporary.write_bytes(_in_order(save(tensors, metadata=names))))


def _in_order(content: bytes) -> bytes:
    """A safetensors file with a sorted header; the library's own order of metadata varies between calls."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def _load_numbers(file: Path, expected: tuple[int, int | None]) -> torch.Tensor:
    """A float32 matrix from a file; None in ``expected`` allows any width."""
    name = _name_in(file)
    try:
        values = load_file(file)[name]
    except (OSError, SafetensorError, KeyError) as error:
        raise CircuitFileError(f"{file}: the {name} listed in {CIRCUIT_FILE} cannot be read: {error}") from None
    if values.dtype != torch.float32:
        raise CircuitFileError(f"{file}: {name} has dtype {str(values.dtype).removeprefix('torch.')}; expected float32")
    rows, columns = expected
    if values.ndim != 2 or len(values) != rows or columns not in (None, values.shape[1]):
        raise CircuitFileError(f"{file}: {name} has shape {tuple(values.shape)}, and the graph needs {expected}")
    return values


def _name_in(file: Path) -> str:
    return file.name.removesuffix(".safetensors")
