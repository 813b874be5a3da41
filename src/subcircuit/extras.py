"""Optional dependencies: their extras, and an error that names the missing extra."""

from dataclasses import dataclass
from importlib.util import find_spec

from subcircuit.errors import MissingExtraError


@dataclass(frozen=True)
class Extra:
    """Packages of a part of the library that the base install does not include.

    Args:
        use: the part that needs them.
        modules: the modules that it imports.
    """

    use: str
    modules: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """The modules that are not installed."""
        return tuple(module for module in self.modules if find_spec(module) is None)


EXTRAS = {
    "viewer": Extra("the page that subcircuit view serves", ("starlette", "uvicorn")),
    "gguf": Extra("reading GGUF files", ("gguf", "accelerate")),
    "export": Extra("the formats networkx and graphml", ("networkx",)),
    "distributed": Extra("work on a Ray cluster", ("ray",)),
    "tracr": Extra("compiling RASP programs", ("tracr",)),
}


def require(name: str) -> None:
    """Check that an extra is installed; called before its modules are imported.

    Raises:
        MissingExtraError: it is not.
    """
    extra = EXTRAS[name]
    if missing := extra.missing:
        raise MissingExtraError(
            f"{extra.use} needs {' and '.join(missing)}, which {'are' if missing[1:] else 'is'} not installed: "
            f"pip install 'subcircuit[{name}]'"
        )
