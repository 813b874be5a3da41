"""``subcircuit doctor``: a check of the installation, with a command for each missing package."""

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import typer

from subcircuit.cli.arguments import JsonTable
from subcircuit.cli.browser import find_browser
from subcircuit.extras import EXTRAS

_PACKAGES = ("torch", "transformers", "safetensors", "numpy")
_MARKS = {"ok": "✓", "absent": "–", "broken": "✗"}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        what: name of the item.
        state: ``absent`` for a missing optional item.
        found: the item's version or value.
        advice: the remedy; empty if none is needed.
    """

    what: str
    state: Literal["ok", "absent", "broken"]
    found: str
    advice: str = ""


def doctor(
    json: JsonTable = False,
) -> None:
    """Check the installation: versions, devices, models, and missing packages with the commands to install them."""
    from subcircuit.cli.console import plain, print_json, results

    findings = (*_versions(), _device(), _threads(), _cache(), *_models(), *_extras())
    if json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        console = results()
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            console.print(plain(f"{_MARKS[finding.state]} {finding.what:<{width}}  {finding.found}"), soft_wrap=True)
            if finding.advice:
                console.print(plain(f"  {'':<{width}}  → {finding.advice}", "dim"), soft_wrap=True)
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(2)


def _versions() -> list[Finding]:
    from subcircuit import __version__

    findings = [Finding("subcircuit", "ok", f"{__version__}, Python {platform.python_version()}, {platform.system()}")]
    for package in _PACKAGES:
        try:
            findings.append(Finding(package, "ok", version(package)))
        except PackageNotFoundError:
            findings.append(Finding(package, "broken", "not installed", f"{sys.executable} -m pip install {package}"))
    return findings


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding(
            "devices", "ok", f"cpu, {', '.join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))}"
        )
    mps = ", mps (give --device mps)" if torch.backends.mps.is_available() else ""
    return Finding("devices", "ok", f"cpu{mps}; no CUDA device")


def _threads() -> Finding:
    import torch

    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    found = f"{threads} of {cores} cores"
    if threads < cores:
        return Finding("threads", "ok", found, "OMP_NUM_THREADS sets the number; scores change by about 1e-6")
    return Finding("threads", "ok", found)


def _cache() -> Finding:
    from subcircuit.model.load.cache import cache_directory

    folder = cache_directory()
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(nearest, os.W_OK):
        return Finding("cache", "broken", f"{folder} cannot be written", "set SUBCIRCUIT_CACHE to a directory of your own")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(nearest).free
    return Finding("cache", "ok", f"{folder}, {size / 1e9:.1f} GB, {free / 1e9:.0f} GB free")


def _models() -> list[Finding]:
    from subcircuit.model import BuiltIn, models

    findings = []
    for entry in models():
        advice = ""
        if isinstance(entry.model, BuiltIn) and not entry.installed:
            advice = f"downloaded at first use, or: {entry.model.installation}"
        findings.append(Finding(entry.model.name, "ok" if entry.installed else "absent", entry.source, advice))
    return findings


def _extras() -> list[Finding]:
    browser = find_browser()
    advice = "needed only by the tests, and downloaded by make test; subcircuit view works in any browser"
    findings = [Finding("chromium", "ok", browser) if browser else Finding("chromium", "absent", "not found", advice)]
    for name, extra in EXTRAS.items():
        if extra.missing:
            absent = f"{', '.join(extra.missing)} not installed"
            findings.append(Finding(name, "absent", absent, f"for {extra.use}: pip install 'subcircuit[{name}]'"))
        else:
            findings.append(Finding(name, "ok", f"{', '.join(extra.modules)} installed"))
    return findings
