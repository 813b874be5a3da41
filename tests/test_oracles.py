"""The oracles share nothing that computes with what they check."""

import ast
from dataclasses import is_dataclass
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import Any, get_args

ORACLES = Path(__file__).with_name("oracles.py")
VALUES = {"model", "graph", "scope", "shape", "problem", "task", "answers", "metric", "ablation", "config"}


def imported(source: str) -> dict[str, Any]:
    """What a file takes from the package, by where it is."""
    names = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("subcircuit", "tests")
        for alias in node.names
    ]
    return {f"{module}.{name}": getattr(import_module(str(module)), name) for module, name in names}


def is_value(imported: Any) -> bool:
    """A dataclass, an abstract base of some, or a union of such."""
    kinds = get_args(imported) or (imported,)
    return all(isinstance(kind, type) and (is_dataclass(kind) or isabstract(kind)) for kind in kinds)


def test_oracles_import_values_alone():
    found = imported(ORACLES.read_text())
    assert found
    assert [name for name, value in found.items() if not is_value(value)] == []


def test_oracles_ask_no_value_to_compute():
    called = [
        ast.unparse(node.func).split(".") for node in ast.walk(ast.parse(ORACLES.read_text())) if isinstance(node, ast.Call)
    ]
    assert [words for words in called if words[-1] in VALUES or (len(words) > 1 and words[-2] in VALUES)] == []


def test_functions_are_no_values():
    source = (
        "from subcircuit.engine import run_circuit\nfrom subcircuit.search import Problem\nfrom subcircuit.tasks import graph_of"
    )
    assert [is_value(value) for value in imported(source).values()] == [False, True, False]
