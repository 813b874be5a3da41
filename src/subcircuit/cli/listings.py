"""``subcircuit models``, ``metrics``, ``methods``: lists of the built-in choices."""

from subcircuit.cli.console import plain, print_rows, results


def models() -> None:
    """List the built-in models with their sources, and the supported architectures."""
    from subcircuit.model import architectures
    from subcircuit.model import models as listed

    console = results()
    print_rows([(entry.model.name, entry.model.about, entry.source) for entry in listed()], console)
    console.print()
    console.print(plain(f"Any Hugging Face id, directory or .gguf file of: {', '.join(architectures())}"))


def metrics() -> None:
    """List the metrics."""
    from subcircuit.tasks import METRICS

    print_rows([(entry.name, entry.direction + " is better", entry.description) for entry in METRICS.values()], results())


def methods() -> None:
    """List the search methods and their settings."""
    from dataclasses import MISSING, fields

    from subcircuit.search import METHODS

    def setting(name: str, default: object) -> str:
        return name if default is MISSING else f"{name}={'none' if default is None else default}"

    rows = []
    for method in METHODS.values():
        rows.append((method.name, method.description))
        rows.append(("", " ".join(setting(field.name, field.default) for field in fields(method))))
    console = results()
    print_rows(rows, console)
    console.print()
    console.print(plain("Settings are given with --set NAME=VALUE."))
