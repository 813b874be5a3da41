"""Shapes are written in the one vocabulary of axes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from subcircuit.axes import AXES

SOURCES = Path(__file__).parent.parent / "src" / "subcircuit"


def shapes(tree: ast.AST) -> Iterator[str]:
    """The shape strings of jaxtyping annotations."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(
                value=ast.Name(id="Float" | "Int" | "Bool"), slice=ast.Tuple(elts=[_, ast.Constant(value=str(shape))])
            ):
                yield shape


@pytest.mark.slow
def test_every_axis_in_an_annotation_is_in_the_vocabulary():
    used = set()
    for path in SOURCES.rglob("*.py"):
        for shape in shapes(ast.parse(path.read_text(encoding="utf-8"))):
            names = {axis.lstrip("*#") for axis in shape.split()} - {"", "...", "1"}
            assert names <= AXES.keys(), f"{path.name}: {shape!r} has axes that axes.py does not explain"
            used |= names
    assert used == AXES.keys(), f"never used: {AXES.keys() - used}"
