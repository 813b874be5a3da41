"""Where an extra is missing, one line names it; the extras are those of pyproject.toml."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from subcircuit.cli.main import main
from subcircuit.errors import MissingExtraError
from subcircuit.extras import EXTRAS, require
from subcircuit.graph import Circuit, Graph, GraphShape, Scope
from subcircuit.report import to_networkx
from tests.model.load.test_gguf import write_gguf

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOR_DEVELOPERS = {"all", "dev", "docs"}
SEARCH = ("discover", "--task", "induction", "--examples", "2", "--method", "random", "--edges", "9", "--out", "run", "--model")
COMMANDS = {
    "viewer": ("view", "found", "--no-browser"),
    "gguf": (*SEARCH, "tiny.gguf"),
    "export": ("export", "found", "--format", "graphml"),
    "distributed": (*SEARCH, "tiny-induction-ioi", "--ray", "local", "--workers", "2"),
    "tracr": ("validate", "tracr-reverse", "--methods", "eap"),
}


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Circuit:
    """A circuit that is saved in the working directory, beside a GGUF file that is not converted."""
    monkeypatch.setenv("SUBCIRCUIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_gguf(tmp_path / "tiny.gguf")
    circuit = Circuit.full(Graph(GraphShape(1, 2, 2), Scope()))
    circuit.save(tmp_path / "found")
    return circuit


@pytest.mark.parametrize(("name", "module"), [(name, module) for name, extra in EXTRAS.items() for module in extra.modules])
def test_a_missing_extra_is_one_line_that_names_it(
    name: str, module: str, found: Circuit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(list(COMMANDS[name])) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert errors[0].endswith(f"needs {module}, which is not installed: pip install 'subcircuit[{name}]'")
    assert not Path("run").exists()


def test_python_users_are_told_of_the_same_extra(found: Circuit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'subcircuit\[export\]'"):
        to_networkx(found)


def test_several_missing_modules_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in EXTRAS["viewer"].modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match="needs starlette and uvicorn, which are not installed"):
        require("viewer")


def test_the_project_declares_the_extras_that_the_code_asks_for() -> None:
    declared = PROJECT["optional-dependencies"]
    assert declared.keys() - FOR_DEVELOPERS == EXTRAS.keys()
    assert declared["all"] == [f"subcircuit[{','.join(EXTRAS)}]"]
    for name, extra in EXTRAS.items():
        packages = {re.split(r"[>=<]", requirement)[0].removesuffix("-pypi") for requirement in declared[name]}
        assert packages == set(extra.modules)


def test_the_base_install_has_nothing_of_the_extras() -> None:
    base = {re.split(r"[>=<]", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert base & {module for extra in EXTRAS.values() for module in extra.modules} == set()
