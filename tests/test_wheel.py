"""The wheel: built without a network, installed into an empty environment, it searches with the base install alone."""

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import pytest

import subcircuit
from subcircuit.extras import EXTRAS

ROOT = Path(__file__).parent.parent
MODULES = tuple(module for extra in EXTRAS.values() for module in extra.modules)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    run([*pip, "--wheel-dir", str(folder), str(ROOT)], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel, and that sees what is installed here, the extras excepted."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False, symlinks=True)
    paths = sysconfig.get_paths(scheme="venv", vars={"base": str(environment), "platbase": str(environment)})
    hidden = f"import sys; sys.modules.update(dict.fromkeys({MODULES!r}))\n"
    Path(paths["purelib"], "base.pth").write_text(sysconfig.get_path("purelib") + "\n" + hidden, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(environment), "install", "--quiet", "--no-deps", "--no-index"]
    run([*pip, str(wheel)], environment)
    return Path(paths["scripts"])


def run(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": "", "HOME": str(folder), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
        metadata = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    files = (path for path in (ROOT / "src" / "subcircuit").rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert held == {path.relative_to(ROOT / "src").as_posix() for path in files}
    assert f"\nVersion: {subcircuit.__version__}\n" in metadata


@pytest.mark.slow
def test_an_installed_wheel_searches_in_an_empty_folder(scripts: Path, tmp_path: Path) -> None:
    program = str(scripts / "subcircuit")
    folder = tmp_path / "empty"
    folder.mkdir()
    where = run([str(scripts / "python"), "-c", "import subcircuit; print(subcircuit.__file__)"], folder)
    assert Path(where.strip()).is_relative_to(scripts.parent)
    run(
        [program, "discover", "--model", "tiny-induction-ioi", "--task", "induction", "--examples", "8", "--out", "found"], folder
    )
    assert subcircuit.Circuit.load(folder / "found").n_edges > 0
    run([program, "report", "found", "--graph-only"], folder)
    assert (folder / "circuit.html").stat().st_size > 0
