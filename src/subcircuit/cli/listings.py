"""``subcircuit models``, ``metrics``, ``methods``: what there is to choose from."""

from subcircuit.cli.console import plain, print_rows, results


def models() -> None:
    """List the models with a name of their own, where they come from here, and the architectures that can be loaded."""
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
    """List the search methods."""
    from subcircuit.search import METHODS

    print_rows([(entry.name, entry.description) for entry in METHODS.values()], results())
